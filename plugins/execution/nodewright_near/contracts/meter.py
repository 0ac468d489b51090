"""Gas of one call: what is burnt, and what is used (burnt, and given away with promises).

Host functions cost what the protocol's table says. Instructions are counted by the machine in units of its own, each taken
for one ``wasm_regular_op_cost``: close to NEAR's, not equal to it.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from nodewright_near.fees import U64_MAX
from nodewright_near.parameters import Fee


@frozen
class HostCosts:
    """Gas of host functions at protocol 84."""

    regular_op: int = 822_756
    base: int = 264_768_111
    contract_loading_base: int = 35_445_963
    contract_loading_byte: int = 1_089_295
    read_memory_base: int = 2_609_863_200
    read_memory_byte: int = 3_801_333
    write_memory_base: int = 2_803_794_861
    write_memory_byte: int = 2_723_772
    read_register_base: int = 2_517_165_186
    read_register_byte: int = 98_562
    write_register_base: int = 2_865_522_486
    write_register_byte: int = 3_801_564
    utf8_base: int = 3_111_779_061
    utf8_byte: int = 291_580_479
    utf16_base: int = 3_543_313_050
    utf16_byte: int = 163_577_493
    sha256_base: int = 4_540_970_250
    sha256_byte: int = 24_117_351
    keccak256_base: int = 5_879_491_275
    keccak256_byte: int = 21_471_105
    keccak512_base: int = 5_811_388_236
    keccak512_byte: int = 36_649_701
    ripemd160_base: int = 853_675_086
    ripemd160_block: int = 680_107_584
    ecrecover_base: int = 278_821_988_457
    ed25519_base: int = 210_000_000_000
    ed25519_byte: int = 9_000_000
    log_base: int = 3_543_313_050
    log_byte: int = 13_198_791
    storage_write_base: int = 64_196_736_000
    storage_write_key_byte: int = 70_482_867
    storage_write_value_byte: int = 31_018_539
    storage_write_evicted_byte: int = 32_117_307
    storage_read_base: int = 56_356_845_749
    storage_read_key_byte: int = 30_952_533
    storage_read_value_byte: int = 5_611_004
    storage_remove_base: int = 53_473_030_500
    storage_remove_key_byte: int = 38_220_384
    storage_remove_value_byte: int = 11_531_556
    storage_has_key_base: int = 54_039_896_625
    storage_has_key_byte: int = 30_790_845
    promise_and_base: int = 1_465_013_400
    promise_and_promise: int = 5_452_176
    promise_return: int = 560_152_386


COSTS: Final = HostCosts()
# What calling the host takes of this node beside its gas, as time of which a chunk's gas limit stands for one second.
HOST_CALL_WORK: Final = 4 * 10**9
# And what a contract's code takes of it, in the same unit: once a chunk, since most are compiled already. A function takes
# the compiler some 100 us, however small it is, and most code more than 0.2 us a byte.
FUNCTION_WORK: Final = 10**11
CODE_BYTE_WORK: Final = 2 * 10**8
# How often the contracts that one receipt calls may call their host. What reads or writes costs so much gas that nobody
# comes near it; a million of the cheapest would take longer than the time in which a block is to be made.
MAX_HOST_CALLS: Final = 120_000


class HostFailure(Exception):
    """A host function ends the call. The message is what NEAR answers under ``ExecutionError``."""


class Meter:
    """``limit`` may be burnt at most, ``prepaid`` used at most."""

    def __init__(self, prepaid: int, limit: int, host_calls: int = MAX_HOST_CALLS) -> None:
        self.prepaid = prepaid
        self.limit = min(limit, prepaid)
        self._most = limit
        self.burnt = 0
        self.promised = 0
        self.host_calls = 0
        self.code_work = 0
        self._most_host_calls = host_calls

    @property
    def used(self) -> int:
        return self.burnt + self.promised

    def called(self) -> None:
        """The contract has called its host, or has ended."""
        self.host_calls += 1
        if self.host_calls > self._most_host_calls:
            raise HostFailure(f"Exceeded the {MAX_HOST_CALLS} calls of host functions that this network allows a receipt.")

    def burn(self, gas: int) -> None:
        """Raises HostFailure beyond either bound; then all that was allowed is burnt."""
        burnt = self.burnt + gas
        if burnt + self.promised <= self.prepaid and burnt <= self._most:
            self.burnt = burnt
            return
        self._exhaust(burnt)

    def promise(self, gas: int) -> None:
        """Set gas apart for a receipt: used, not burnt."""
        promised = self.promised + gas
        if promised > U64_MAX:
            raise HostFailure("Integer overflow.")
        if self.burnt + promised <= self.prepaid:
            self.promised = promised
            return
        self.promised = self.prepaid - self.burnt
        raise HostFailure("Exceeded the prepaid gas.")

    def action(self, base: Fee, sir: bool, count: int = 1) -> None:
        """Burn what an action costs to send, set apart what it costs to run."""
        self.burn(base.send(sir) * count)
        self.promise(base.execution * count)

    def data(self, fee: Fee, sir: bool, count: int = 1) -> None:
        """Burn what data costs, its delivery too: nobody burns that later."""
        self.burn((fee.send(sir) + fee.execution) * count)

    def _exhaust(self, wanted: int) -> None:
        allowed = min(self.prepaid - self.promised, self._most)
        self.burnt = max(self.burnt, allowed)
        if wanted > self._most:
            raise HostFailure("Exceeded the maximum amount of gas allowed to burn per contract.")
        raise HostFailure("Exceeded the prepaid gas.")

    def left(self) -> int:
        return max(min(self.prepaid - self.promised, self._most) - self.burnt, 0)
