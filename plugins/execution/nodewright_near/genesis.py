"""Genesis: records to state, and the first chunks and block of the main network, which have a form of their own.

Records are NEAR's: ``{"Account": {...}}``, ``{"AccessKey": {...}}``, ``{"Contract": {...}}``, ``{"Data": {...}}``. What an
account uses of storage is counted anew from the records; the field in them is not believed.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from typing import Any, Final

from nodewright.errors import ConfigurationError
from nodewright_near.accounts import (
    FULL_ACCESS,
    AccessKey,
    Account,
    FullAccess,
    FunctionCallPermission,
    access_key_key,
    account_key,
    code_key,
    data_key,
)
from nodewright_near.borsh import encode
from nodewright_near.bulk import Bulk
from nodewright_near.fees import U128_MAX
from nodewright_near.generated import Row, read_generated
from nodewright_near.headers import (
    BlockHeaderV1,
    ChunkInnerV1,
    InnerLite,
    InnerRestV1,
    ValidatorStakeV1,
    bp_hash_v1,
    chunk_hash_v1,
    chunk_headers_leaf,
)
from nodewright_near.merkle import merkle_root
from nodewright_near.parameters import Parameters
from nodewright_near.primitives import NO_HASH, NO_SIGNATURE, hash256, is_account, parse_hash, parse_key
from nodewright_near.trienodes import ValueRef, value_ref

MAX_SHARDS: Final = 1024
_NANOSECONDS: Final = re.compile(r"(.*?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)\Z")


def shard_of(account: str, boundaries: Sequence[str]) -> int:
    """Shards are ranges of account names: shard i begins at boundary i, the first one with the least name."""
    return bisect_right(boundaries, account)


def check_boundaries(boundaries: Sequence[str]) -> tuple[str, ...]:
    """Raises ConfigurationError."""
    given = tuple(boundaries)
    if len(given) >= MAX_SHARDS:
        raise ConfigurationError(f"genesis: {len(given)} boundary accounts are too many: at most {MAX_SHARDS - 1}")
    for name in given:
        if not is_account(name):
            raise ConfigurationError(f"genesis: the boundary {name!r} is not an account name")
    if list(given) != sorted(set(given)):
        raise ConfigurationError("genesis: boundary_accounts must be sorted, each name once")
    return given


# --- records ----------------------------------------------------------------------------------------------------------


def _integer(value: Any, what: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"genesis: {what} is not a whole number: {value!r}") from None
    if not 0 <= number <= U128_MAX:
        raise ConfigurationError(f"genesis: {what} is out of range: {number}")
    return number


def _permission(value: Any) -> FunctionCallPermission | FullAccess:
    if value == "FullAccess":
        return FULL_ACCESS
    call = value["FunctionCall"]
    allowance = call.get("allowance")
    return FunctionCallPermission(
        None if allowance is None else _integer(allowance, "an allowance"),
        call["receiver_id"],
        tuple(call.get("method_names", ())),
    )


def _read_record(record: Mapping[str, Any], parameters: Parameters) -> tuple[str, bytes, bytes | Account, int]:
    """Whose it is, its key, its value, and how many bytes it takes of its account's storage. ConfigurationError."""
    try:
        ((kind, body),) = record.items()
        name = body["account_id"]
        if not is_account(name):
            raise ConfigurationError(f"genesis: {name!r} is not an account name")
        if kind == "Account":
            table = body["account"]
            amount = _integer(table["amount"], f"the amount of {name}")
            locked = _integer(table.get("locked", 0), f"the stake of {name}")
            code_hash = parse_hash(table["code_hash"]) if "code_hash" in table else NO_HASH
            return name, account_key(name), Account(amount, locked, code_hash), parameters.account_bytes
        if kind == "AccessKey":
            public = parse_key(body["public_key"])
            access = body["access_key"]
            value = encode(AccessKey(int(access.get("nonce", 0)), _permission(access["permission"])))
            return name, access_key_key(name, public), value, len(public) + len(value) + parameters.record_bytes
        if kind == "Contract":
            code = base64.b64decode(body["code"], validate=True)
            return name, code_key(name), code, len(code)
        if kind == "Data":
            key, value = (base64.b64decode(body[field], validate=True) for field in ("data_key", "value"))
            return name, data_key(name, key), value, len(key) + len(value) + parameters.record_bytes
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"genesis: a record cannot be read: {str(record)[:120]} ({error})") from error
    raise ConfigurationError(f"genesis: records of kind {kind!r} are not taken")


def state_of_records(records: Iterable[Mapping[str, Any]], parameters: Parameters) -> dict[bytes, bytes]:
    """Rows of the trie by key. Raises ConfigurationError with a sentence."""
    rows: dict[bytes, bytes] = {}
    accounts: dict[str, Account] = {}
    usage: dict[str, int] = {}
    for record in records:
        name, key, value, used = _read_record(record, parameters)
        if isinstance(value, Account):
            accounts[name] = value
        else:
            rows[key] = value
        usage[name] = usage.get(name, 0) + used
    for name, used in usage.items():
        if name not in accounts:
            raise ConfigurationError(f"genesis: there are records of {name} and no account of that name")
        account = accounts[name]
        account.storage_usage = used
        rows[account_key(name)] = account.encode()
    return rows


def patch_of_records(records: Iterable[Mapping[str, Any]], parameters: Parameters) -> dict[bytes, bytes]:
    """Rows that a sandbox puts into the state as they are: what an account uses of storage is what its record says.
    Raises ConfigurationError with a sentence."""
    rows: dict[bytes, bytes] = {}
    for record in records:
        _, key, value, used = _read_record(record, parameters)
        if isinstance(value, Account):
            stated = record["Account"]["account"].get("storage_usage", used)
            value.storage_usage = _integer(stated, "a storage_usage")
            value = value.encode()
        rows[key] = value
    return rows


def total_supply(rows: Mapping[bytes, bytes]) -> int:
    accounts = (Account.decode(value) for key, value in rows.items() if key[0] == 0)
    return sum(account.amount + account.locked for account in accounts)


def account_of_key(key: bytes) -> str | None:
    """Whose row of the trie this is; None for a row of the shard itself."""
    kind, body = key[0], key[1:]
    if kind in (0, 1):
        return body.decode()
    if kind == 2:
        return body.partition(b"\x02")[0].decode()
    return body.partition(b",")[0].decode() if kind in (3, 4, 5, 6, 9) else None


def split_rows(rows: Mapping[bytes, bytes], boundaries: Sequence[str]) -> list[dict[bytes, bytes]]:
    """The rows of each shard, in shard order."""
    shards: list[dict[bytes, bytes]] = [{} for _ in range(len(boundaries) + 1)]
    for key, value in rows.items():
        account = account_of_key(key)
        assert account is not None  # genesis has no receipts on their way
        shards[shard_of(account, boundaries)][key] = value
    return shards


# --- the document of a network of this node -------------------------------------------------------------------------


def records_of_document(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records of the genesis table ``execution``: its ``records``, and one account with its keys for each entry of
    ``accounts`` (``id``, ``amount`` in yoctoNEAR, optional ``locked``, ``keys``)."""
    records = list(table.get("records", ()))
    for entry in table.get("accounts", ()):
        try:
            name, amount = entry["id"], entry["amount"]
            account = {"amount": str(amount), "locked": str(entry.get("locked", 0))}
            records.append({"Account": {"account_id": name, "account": account}})
            for key in entry.get("keys", ()):
                access = {"nonce": 0, "permission": "FullAccess"}
                records.append({"AccessKey": {"account_id": name, "public_key": key, "access_key": access}})
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"genesis: execution.accounts: an entry lacks {error}: {str(entry)[:120]}") from error
    return records


class GenesisRows:
    """The state of a genesis table ``execution``: rows of each shard in the order of their keys, those of its
    ``generated_accounts`` made as they are asked for, so that a million of them need no memory. Raises
    ConfigurationError."""

    def __init__(self, table: Mapping[str, Any], parameters: Parameters, boundaries: Sequence[str]) -> None:
        named = state_of_records(records_of_document(table), parameters)
        self._parameters = parameters
        self._bounds = [None, *boundaries, None]
        self._named = [sorted(part.items()) for part in split_rows(named, boundaries)]
        self._sections = read_generated(table)
        self.supply = total_supply(named) + sum(one.count * one.amount for one in self._sections)
        self.count = len(named) + 2 * sum(one.count for one in self._sections)
        suffixes = {"." + one.suffix for one in self._sections}
        for key in named:
            if key[0] == 0 and any(key.endswith(suffix.encode()) for suffix in suffixes):
                raise ConfigurationError(
                    f"genesis: {key[1:].decode()!r} may be one of execution.generated_accounts: rename it"
                )

    @property
    def shards(self) -> int:
        return len(self._named)

    def shard(self, number: int) -> Iterator[Row]:
        low, high = self._bounds[number], self._bounds[number + 1]
        streams = [one.rows(one.within(low, high), self._parameters) for one in self._sections]
        return merge(self._named[number], *streams) if streams else iter(self._named[number])

    def roots(self) -> list[bytes]:
        """Of each shard; a second of work for each ten thousand accounts."""
        return [self._root(number) for number in range(self.shards)]

    def _root(self, number: int) -> bytes:
        bulk, refs = Bulk(), ValueRefs()
        for key, value in self.shard(number):
            bulk.add(key, refs(value))
            bulk.nodes.clear()
        return bulk.finish()


class ValueRefs:
    """``value_ref``, remembering the last ones: rows of a genesis have few different values."""

    def __init__(self) -> None:
        self._known: dict[bytes, ValueRef] = {}

    def __call__(self, value: bytes) -> ValueRef:
        ref = self._known.get(value)
        if ref is None:
            if len(self._known) > 64:
                self._known.clear()
            ref = self._known[value] = value_ref(value)
        return ref


# --- the main network's first block ----------------------------------------------------------------------------------


def nanoseconds(text: str) -> int:
    """Since 1970, of an RFC 3339 time with up to nine decimals. ValueError."""
    match = _NANOSECONDS.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time")
    whole, decimals, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).astimezone(UTC)
    return int(moment.timestamp()) * 10**9 + int((decimals or "").ljust(9, "0"))


def first_chunk_v1(state_root: bytes, height: int, gas_limit: int) -> ChunkInnerV1:
    """Its body is empty: 8 zero bytes, cut into one part of data and two of parity, which are zero as well."""
    part = hash256((8).to_bytes(4, "little") + bytes(8))
    return ChunkInnerV1(
        prev_block_hash=NO_HASH,
        prev_state_root=state_root,
        prev_outcome_root=NO_HASH,
        encoded_merkle_root=merkle_root([part] * 3),
        encoded_length=8,
        height_created=height,
        shard_id=0,
        prev_gas_used=0,
        gas_limit=gas_limit,
        prev_balance_burnt=0,
        prev_outgoing_receipts_root=NO_HASH,
        tx_root=NO_HASH,
        prev_validator_proposals=(),
    )


def first_block_v1(document: Mapping[str, Any], state_root: bytes, producers: Sequence[ValidatorStakeV1]) -> BlockHeaderV1:
    """The header of a network of one shard that began before protocol 30. ``producers`` in the order in which the first
    epoch drew them."""
    height = int(document["genesis_height"])
    chunk = chunk_hash_v1(first_chunk_v1(state_root, height, int(document["gas_limit"])))
    nothing = hash256(NO_HASH)
    lite = InnerLite(
        height=height,
        epoch_id=NO_HASH,
        next_epoch_id=NO_HASH,
        prev_state_root=hash256(state_root),
        prev_outcome_root=NO_HASH,
        timestamp=nanoseconds(document["genesis_time"]),
        next_bp_hash=bp_hash_v1(tuple(producers)),
        block_merkle_root=NO_HASH,
    )
    rest = InnerRestV1(
        chunk_receipts_root=nothing,
        chunk_headers_root=chunk_headers_leaf(chunk, height),
        chunk_tx_root=nothing,
        chunks_included=0,
        challenges_root=NO_HASH,
        random_value=NO_HASH,
        validator_proposals=(),
        chunk_mask=(),
        gas_price=int(document["min_gas_price"]),
        total_supply=int(document["total_supply"]),
        challenges_result=(),
        last_final_block=NO_HASH,
        last_ds_final_block=NO_HASH,
        approvals=(),
        latest_protocol_version=int(document["protocol_version"]),
    )
    return BlockHeaderV1(NO_HASH, lite, rest, NO_SIGNATURE)
