"""Fees and limits of protocol 84, as nearcore's published parameter table gives them. Gas, bytes, yoctoNEAR.

They are consensus rules, chosen by protocol version: ``for_protocol``. A table for another version is added beside this
one, never in its place.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from attrs import frozen

PROTOCOL_VERSION: Final = 84
# All that this node can run.
VERSIONS: Final = frozenset({PROTOCOL_VERSION})
TERA: Final = 10**12
PETA: Final = 10**15


@frozen
class Fee:
    """Gas to send (to oneself, to another) and to execute."""

    send_sir: int
    send_not_sir: int
    execution: int

    def send(self, sender_is_receiver: bool) -> int:
        return self.send_sir if sender_is_receiver else self.send_not_sir


@frozen
class Fees:
    action_receipt: Fee = Fee(108_059_500_000, 108_059_500_000, 108_059_500_000)
    data_receipt_base: Fee = Fee(36_486_732_312, 36_486_732_312, 36_486_732_312)
    data_receipt_byte: Fee = Fee(17_212_011, 47_683_715, 17_212_011)
    create_account: Fee = Fee(3_850_000_000_000, 3_850_000_000_000, 3_850_000_000_000)
    delete_account: Fee = Fee(147_489_000_000, 147_489_000_000, 147_489_000_000)
    deploy_contract: Fee = Fee(184_765_750_000, 184_765_750_000, 184_765_750_000)
    deploy_contract_byte: Fee = Fee(6_812_999, 47_683_715, 64_572_944)
    function_call: Fee = Fee(200_000_000_000, 200_000_000_000, 780_000_000_000)
    function_call_byte: Fee = Fee(2_235_934, 47_683_715, 2_235_934)
    transfer: Fee = Fee(115_123_062_500, 115_123_062_500, 115_123_062_500)
    stake: Fee = Fee(141_715_687_500, 141_715_687_500, 102_217_625_000)
    add_full_access_key: Fee = Fee(101_765_125_000, 101_765_125_000, 101_765_125_000)
    add_function_call_key: Fee = Fee(102_217_625_000, 102_217_625_000, 102_217_625_000)
    add_function_call_key_byte: Fee = Fee(1_925_331, 47_683_715, 1_925_331)
    delete_key: Fee = Fee(94_946_625_000, 94_946_625_000, 94_946_625_000)
    delegate: Fee = Fee(200_000_000_000, 200_000_000_000, 200_000_000_000)


@frozen
class Limits:
    max_actions: int = 100
    max_input_data: int = 128
    max_method_names_bytes: int = 2_000
    max_method_name: int = 256
    max_arguments: int = 4_194_304
    max_returned_data: int = 4_194_304
    max_contract: int = 4_194_304
    max_transaction: int = 1_572_864
    max_receipt: int = 4_194_304
    max_storage_key: int = 2_048
    max_storage_value: int = 4_194_304
    max_promises: int = 1_024
    max_prepaid_gas: int = PETA
    max_gas_burnt: int = PETA
    max_view_gas: int = 300 * TERA
    max_logs: int = 100
    max_log_bytes: int = 16_384
    max_registers: int = 100
    max_register: int = 104_857_600
    registers_memory: int = 1_073_741_824
    initial_memory_pages: int = 1_024
    max_memory_pages: int = 2_048
    max_deletion_storage: int = 10_000
    max_functions: int = 10_000
    max_locals: int = 1_000_000
    max_tables: int = 1
    max_table_elements: int = 10_000


@frozen
class Congestion:
    """A level is 0 to 1; what a full shard lets in, and when a new transaction is turned away."""

    max_incoming_gas: int = 400 * PETA
    max_outgoing_buffer_gas: int = 10 * PETA
    max_memory: int = 1_000_000_000
    max_missed_chunks: int = 125
    max_outgoing_gas: int = 300 * PETA
    min_outgoing_gas: int = PETA
    allowed_shard_outgoing_gas: int = PETA
    max_tx_gas: int = 500 * TERA
    min_tx_gas: int = 20 * TERA
    reject_at: Fraction = Fraction(80, 100)


@frozen
class Parameters:
    """``registrar`` alone creates top-level accounts shorter than ``min_top_level``; ``gas_limit`` of a chunk."""

    fees: Fees = Fees()
    limits: Limits = Limits()
    congestion: Congestion = Congestion()
    storage_amount_per_byte: int = 10**19
    account_bytes: int = 100
    record_bytes: int = 40
    zero_balance_bytes: int = 770
    gas_limit: int = PETA
    burnt_gas_reward: Fraction = Fraction(3, 10)
    min_top_level: int = 65
    registrar: str = "registrar"
    min_gas_price: int = 10**8
    minimum_stake: int = 0
    transaction_validity: int = 86_400


def for_protocol(version: int, base: Parameters | None = None) -> Parameters:
    """The rules of a protocol version. ValueError for one that this node does not know."""
    if version and version not in VERSIONS:
        known = ", ".join(map(str, sorted(VERSIONS)))
        raise ValueError(f"protocol version {version} is not known to this node: it knows {known}")
    return base if base is not None else Parameters()
