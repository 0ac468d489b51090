"""What an operator may set for the execution ``bitcoin``.

``network`` and the activation heights are consensus rules: every node of a network must set the same.
"""

from __future__ import annotations

from typing import Final

import attrs

from nodewright.plugins.specs import setting
from nodewright_bitcoin.network import CHAINS, ChainParameters, address_to_script
from nodewright_bitcoin.policy import Policy
from nodewright_bitcoin.script.limits import POLICY_WORK

OP_TRUE: Final = b"\x51"
_ALIASES: Final = {"mainnet": "main", "testnet": "test"}
_HEIGHTS: Final = ("bip34_height", "uahf_height", "genesis_height", "chronicle_height")


@attrs.define
class BitcoinConfig:
    network: str = setting(
        "local",
        help="activation heights and address prefixes; local is regtest with every rule active from block 1",
        choices=("local", "regtest", "testnet", "mainnet"),
    )
    payout_address: str = setting("", help="address that this node's blocks pay; empty: payout_script")
    payout_script: str = setting("", help="locking script in hex that this node's blocks pay; empty: OP_TRUE")
    min_fee_rate: int = setting(1, help="satoshis asked for 1,000 bytes", minimum=0)
    max_tx_size: int = setting(10_000_000, help="largest transaction taken, in bytes", minimum=1000, maximum=1_000_000_000)
    standard_scripts: bool = setting(True, help="ask relay's stricter script rules of transactions that are offered")
    max_script_work: int = setting(
        POLICY_WORK,
        help="work units (about a nanosecond each) for the scripts of one offered transaction, beside 500 for each byte",
        minimum=1 << 18,
    )
    coinbase_maturity: int | None = setting(None, help="blocks before a coinbase may be spent", minimum=100)
    subsidy_halving_interval: int | None = setting(None, help="blocks between halvings", minimum=1)
    retention_blocks: int = setting(
        288,
        help="transactions all of whose outputs were spent this deep are dropped; no reorganisation can be deeper",
        minimum=100,
    )
    bip34_height: int | None = setting(None, help="first block whose coinbase must hold its height", minimum=0)
    uahf_height: int | None = setting(None, help="last block before fork-id signatures", minimum=0)
    genesis_height: int | None = setting(None, help="first block under the Genesis rules", minimum=0)
    chronicle_height: int | None = setting(None, help="first block under the Chronicle rules", minimum=0)
    verify_cache_bytes: int = setting(64 * 1024 * 1024, help="memory for transactions whose scripts have passed", minimum=0)
    kernels: str = setting(
        "auto",
        help="auto compiles the batch kernels in the background while plain code serves; off stays plain",
        choices=("auto", "off"),
    )

    def parameters(self) -> ChainParameters:
        names = (*_HEIGHTS, "coinbase_maturity", "subsidy_halving_interval")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return attrs.evolve(CHAINS[_ALIASES.get(self.network, self.network)], **changes)

    def policy(self) -> Policy:
        return Policy(self.min_fee_rate, self.max_tx_size, self.max_script_work, self.standard_scripts)

    def payout(self, parameters: ChainParameters) -> bytes:
        if self.payout_address:
            return address_to_script(self.payout_address, parameters)
        return bytes.fromhex(self.payout_script) or OP_TRUE


def check(config: BitcoinConfig) -> list[str]:
    problems = []
    if config.payout_address and config.payout_script:
        problems.append("payout_address and payout_script are both set: keep one")
    try:
        bytes.fromhex(config.payout_script)
    except ValueError:
        problems.append(f"payout_script: {config.payout_script[:40]!r} is not hexadecimal: two digits for each byte")
        return problems
    try:
        parameters = config.parameters()
        config.payout(parameters)
    except ValueError as error:
        problems.append(f"payout_address: {error}")
    else:
        if parameters.chronicle_height < parameters.genesis_height:
            problems.append("chronicle_height must not be below genesis_height")
    return problems
