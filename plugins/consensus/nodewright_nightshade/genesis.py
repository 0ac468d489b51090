"""What the genesis document says to Nightshade, and the first block.

Table ``consensus``: ``validators`` (list of ``account``, ``key`` as ``ed25519:…``, ``stake`` in yoctoNEAR as text or
number), optional ``epoch_length`` (blocks, 500), ``gas_limit`` of a chunk, ``height`` of the first block (0),
``max_gas_price``, ``mandates_per_shard`` (68: how finely stake is dealt out to check chunks), ``seats`` (100: how many
validators an epoch may have), ``minimum_stake_divisor`` (6250: what part of all stake is worth a seat), ``kick_out_below``
(80: percent of due blocks and chunks; 0: nobody is kicked out) and ``max_kicked_percent`` (30, of an epoch's stake). Table
``execution`` gives accounts and ``boundary_accounts`` (one less than there are shards). ``protocol_versions``: height →
version, from which height on validators vote for a version that they can run; the first one is that of the genesis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from attrs import evolve, frozen

from nodewright.errors import ConfigurationError
from nodewright_near.chunks import ChunkExtra
from nodewright_near.config import parameters
from nodewright_near.genesis import GenesisRows, check_boundaries
from nodewright_near.headers import MAX_VALIDATORS, CongestionInfo, ValidatorStakeV1, bp_hash
from nodewright_near.parameters import PROTOCOL_VERSION, VERSIONS
from nodewright_near.primitives import NO_HASH, is_account, parse_key
from nodewright_nightshade.blocks import Block, Info, Network, genesis_block
from nodewright_nightshade.epochs import MANDATES_PER_SHARD
from nodewright_nightshade.sampling import Validator
from nodewright_nightshade.selection import EpochSet, SeatRules, first

MAX_GAS_PRICE = 10**10
MIN_EPOCH = 5  # blocks: an epoch is over once a block near its end is final


@frozen
class Genesis:
    document: Mapping[str, Any]
    network: Network
    boundaries: tuple[str, ...]
    validators: tuple[Validator, ...]
    mandates: int  # of each shard, at each height
    validity: int  # how many blocks the block that a transaction names may be old
    seats: SeatRules
    versions: tuple[tuple[int, int], ...]  # (height, version): from when on a version is voted for

    def first_epochs(self, root: bytes) -> tuple[EpochSet, EpochSet]:
        """``root``: the hash of the first block."""
        zero = first(NO_HASH, self.validators, self.network.shards, self.network.protocol_version)
        return zero, evolve(zero, id=root, number=1)

    def vote(self, height: int, now: int) -> int:
        """The newest protocol version that this node can run and the network may vote for at a height."""
        return max([now, *(version for since, version in self.versions if since <= height and version in VERSIONS)])

    @property
    def producers_hash(self) -> bytes:
        return bp_hash(tuple(ValidatorStakeV1(one.account, one.key, one.stake) for one in self.validators))

    def build(self) -> tuple[Block, Info]:
        """Computes the state's root of every shard: once, then it is in the store."""
        table = self.document.get("execution", {})
        rows = GenesisRows(table, parameters(table), self.boundaries)
        return self.build_on(rows.roots(), rows.supply)

    def build_on(self, roots: Sequence[bytes], supply: int) -> tuple[Block, Info]:
        """On state roots that are known."""
        extra = genesis_extra(NO_HASH)
        height = _whole(self.document.get("consensus", {}), "height", 0)
        time = int(self.document["time"]) * 10**9
        return genesis_block(height, time, list(roots), extra, self.network, supply, self.producers_hash)


def genesis_extra(root: bytes) -> ChunkExtra:
    return ChunkExtra(root, NO_HASH, NO_HASH, 0, 0, (), CongestionInfo())


def _whole(table: Mapping[str, Any], name: str, default: int) -> int:
    value = table.get(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise ConfigurationError(f"genesis: consensus.{name} is not a whole number: {value!r}")
    return number


def read(document: Mapping[str, Any]) -> Genesis:
    """Raises ConfigurationError with a sentence."""
    table = document.get("consensus", {})
    rules = parameters(document.get("execution", {}))
    boundaries = check_boundaries(document.get("execution", {}).get("boundary_accounts", ()))
    validators = []
    for entry in table.get("validators", ()):
        try:
            account, key, stake = entry["account"], parse_key(entry["key"]), int(entry["stake"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"genesis: consensus.validators: an entry cannot be read: {error}") from error
        if not is_account(account) or stake <= 0 or key[0] != 0:
            raise ConfigurationError(
                f"genesis: consensus.validators: {account!r} needs an account name, an ed25519 key and a positive stake"
            )
        validators.append(Validator(account, key, stake))
    if not validators or len({one.account for one in validators}) < len(validators):
        raise ConfigurationError("genesis: consensus.validators must name at least one validator, each account once")
    length = _whole(table, "epoch_length", 500)
    if length < MIN_EPOCH:
        raise ConfigurationError(f"genesis: consensus.epoch_length = {length}: an epoch has at least {MIN_EPOCH} blocks")
    versions = tuple(sorted((int(at), int(one)) for at, one in document.get("protocol_versions", {}).items()))
    network = Network(
        len(boundaries) + 1,
        length,
        rules.min_gas_price,
        max(rules.min_gas_price, _whole(table, "max_gas_price", MAX_GAS_PRICE)),
        _whole(table, "gas_limit", rules.gas_limit),
        versions[0][1] if versions else PROTOCOL_VERSION,
    )
    usual = SeatRules()
    seats = SeatRules(
        max(1, min(MAX_VALIDATORS, _whole(table, "seats", usual.seats))),
        Fraction(1, max(2, _whole(table, "minimum_stake_divisor", usual.ratio.denominator))),
        min(100, _whole(table, "kick_out_below", usual.kick_out_below)),
        min(100, _whole(table, "max_kicked_percent", usual.max_kicked_percent)),
    )
    mandates = max(1, _whole(table, "mandates_per_shard", MANDATES_PER_SHARD))
    return Genesis(document, network, boundaries, tuple(validators), mandates, rules.transaction_validity, seats, versions)
