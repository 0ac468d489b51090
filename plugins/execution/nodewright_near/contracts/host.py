"""What a contract may ask of its host: registers, context, storage, logs, hashes. Promises are in ``host_promises``.

Each method bears the name under which contracts import it; ``imports`` has their types. Arguments are unsigned. All cost
gas before they do anything, and end the call by raising ``HostFailure`` with NEAR's own words.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, Protocol

from coincurve import PublicKey

from nodewright.interfaces.verifier import Verifier
from nodewright.kernels import ripemd160
from nodewright_near.accounts import data_key
from nodewright_near.contracts.calls import Call
from nodewright_near.contracts.keccak import Keccak
from nodewright_near.contracts.meter import COSTS, HostFailure, Meter
from nodewright_near.state import State

IN_REGISTER: Final = (1 << 64) - 1
_MAX_TEXT: Final = 16_384
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class Memory(Protocol):
    """The contract's memory. Raises HostFailure outside of its bounds."""

    def read(self, at: int, count: int) -> bytes: ...

    def write(self, at: int, data: bytes) -> None: ...


class Host:
    memory: Memory

    def __init__(self, call: Call, state: State, verifier: Verifier, meter: Meter) -> None:
        self.call = call
        self.state = state
        self.verifier = verifier
        self.meter = meter
        self.limits = call.parameters.limits
        self.balance = call.balance
        self.storage = call.storage_usage
        self.logs: list[str] = []
        self.returned: bytes | int | None = None
        self._log_bytes = 0
        self._registers: dict[int, bytes] = {}
        self._keccak: Keccak | None = None

    # --- memory and registers ---

    def peek(self, at: int, count: int) -> bytes:
        self.meter.burn(COSTS.read_memory_base + COSTS.read_memory_byte * count)
        return self.memory.read(at, count)

    def poke(self, at: int, data: bytes) -> None:
        self.meter.burn(COSTS.write_memory_base + COSTS.write_memory_byte * len(data))
        self.memory.write(at, data)

    def register(self, number: int) -> bytes:
        data = self._registers.get(number)
        if data is None:
            raise HostFailure(f"Accessed invalid register id: {number}")
        self.meter.burn(COSTS.read_register_base + COSTS.read_register_byte * len(data))
        return data

    def set_register(self, number: int, data: bytes) -> None:
        self.meter.burn(COSTS.write_register_base + COSTS.write_register_byte * len(data))
        used = sum(map(len, self._registers.values())) - len(self._registers.get(number, b"")) + len(data)
        full = number not in self._registers and len(self._registers) >= self.limits.max_registers
        if full or len(data) > self.limits.max_register or used > self.limits.registers_memory:
            raise HostFailure("Accessed memory outside the bounds.")
        self._registers[number] = data

    def given(self, count: int, at: int) -> bytes:
        """From memory, or from register ``at``."""
        return self.register(at) if count == IN_REGISTER else self.peek(at, count)

    def u128(self, at: int) -> int:
        return int.from_bytes(self.peek(at, 16), "little")

    def text(self, count: int, at: int) -> str:
        """UTF-8, of that length or up to a zero."""
        if count != IN_REGISTER:
            if count > _MAX_TEXT:
                raise HostFailure("The length of a log message exceeds the limit 16384")
            data = self.peek(at, count)
        else:
            data = self._until_zero(at, 1)
        self.meter.burn(COSTS.utf8_base + COSTS.utf8_byte * len(data))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise HostFailure("String encoding is bad UTF-8 sequence.") from None

    def text16(self, count: int, at: int) -> str:
        if count != IN_REGISTER:
            if count > _MAX_TEXT:
                raise HostFailure("The length of a log message exceeds the limit 16384")
            data = self.peek(at, count)
        else:
            data = self._until_zero(at, 2)
        self.meter.burn(COSTS.utf16_base + COSTS.utf16_byte * len(data))
        try:
            return data.decode("utf-16-le")
        except UnicodeDecodeError:
            raise HostFailure("String encoding is bad UTF-16 sequence.") from None

    def _until_zero(self, at: int, width: int) -> bytes:
        data = b""
        while len(data) <= _MAX_TEXT:
            unit = self.peek(at + len(data), width)
            if not any(unit):
                return data
            data += unit
        raise HostFailure("The length of a log message exceeds the limit 16384")

    def not_in_view(self, name: str) -> None:
        if self.call.view:
            raise HostFailure(f"{name} is not allowed in view calls")

    def read_register(self, number: int, at: int) -> None:
        self.meter.burn(COSTS.base)
        self.poke(at, self.register(number))

    def register_len(self, number: int) -> int:
        self.meter.burn(COSTS.base)
        data = self._registers.get(number)
        return IN_REGISTER if data is None else len(data)

    def write_register(self, number: int, count: int, at: int) -> None:
        self.meter.burn(COSTS.base)
        self.set_register(number, self.peek(at, count))

    # --- context ---

    def _tell(self, register: int, data: bytes) -> None:
        self.meter.burn(COSTS.base)
        self.set_register(register, data)

    def current_account_id(self, register: int) -> None:
        self._tell(register, self.call.account_id.encode())

    def signer_account_id(self, register: int) -> None:
        self.not_in_view("signer_account_id")
        self._tell(register, self.call.signer_id.encode())

    def signer_account_pk(self, register: int) -> None:
        self.not_in_view("signer_account_pk")
        self._tell(register, self.call.signer_key)

    def predecessor_account_id(self, register: int) -> None:
        self.not_in_view("predecessor_account_id")
        self._tell(register, self.call.predecessor_id.encode())

    def refund_to_account_id(self, register: int) -> None:
        self.not_in_view("refund_to_account_id")
        self._tell(register, self.call.predecessor_id.encode())

    def input(self, register: int) -> None:
        self._tell(register, self.call.args)

    def _number(self, value: int) -> int:
        self.meter.burn(COSTS.base)
        return value

    def block_index(self) -> int:
        return self._number(self.call.height)

    def block_timestamp(self) -> int:
        return self._number(self.call.timestamp)

    def epoch_height(self) -> int:
        return self._number(self.call.epoch)

    def storage_usage(self) -> int:
        return self._number(self.storage)

    def account_balance(self, at: int) -> None:
        self.meter.burn(COSTS.base)
        self.poke(at, self.balance.to_bytes(16, "little"))

    def account_locked_balance(self, at: int) -> None:
        self.meter.burn(COSTS.base)
        self.poke(at, self.call.locked.to_bytes(16, "little"))

    def attached_deposit(self, at: int) -> None:
        self.meter.burn(COSTS.base)
        self.poke(at, self.call.deposit.to_bytes(16, "little"))

    def prepaid_gas(self) -> int:
        self.not_in_view("prepaid_gas")
        return self._number(self.call.gas)

    def used_gas(self) -> int:
        self.not_in_view("used_gas")
        self.meter.burn(COSTS.base)
        return self.meter.used

    def random_seed(self, register: int) -> None:
        self._tell(register, self.call.random_seed)

    # --- mathematics ---

    def sha256(self, count: int, at: int, register: int) -> None:
        self.meter.burn(COSTS.sha256_base)
        data = self.given(count, at)
        self.meter.burn(COSTS.sha256_byte * len(data))
        self.set_register(register, sha256(data).digest())

    def keccak256(self, count: int, at: int, register: int) -> None:
        self.meter.burn(COSTS.keccak256_base)
        data = self.given(count, at)
        self.meter.burn(COSTS.keccak256_byte * len(data))
        self.set_register(register, self._sponge().digest(data, 32))

    def keccak512(self, count: int, at: int, register: int) -> None:
        self.meter.burn(COSTS.keccak512_base)
        data = self.given(count, at)
        self.meter.burn(COSTS.keccak512_byte * len(data))
        self.set_register(register, self._sponge().digest(data, 64))

    def _sponge(self) -> Keccak:
        if self._keccak is None:
            self._keccak = Keccak()
        return self._keccak

    def ripemd160(self, count: int, at: int, register: int) -> None:
        self.meter.burn(COSTS.ripemd160_base)
        data = self.given(count, at)
        self.meter.burn(COSTS.ripemd160_block * ((len(data) + 8) // 64 + 1))
        self.set_register(register, ripemd160(data))

    def ecrecover(
        self, hash_len: int, hash_ptr: int, sig_len: int, sig_ptr: int, v: int, strict: int, register: int
    ) -> int:
        self.meter.burn(COSTS.ecrecover_base)
        signature = self.given(sig_len, sig_ptr)
        if len(signature) != 64:
            raise HostFailure(f"ECDSA verify error: invalid signature length {len(signature)}")
        if v > 3:
            raise HostFailure(f"ECDSA verify error: invalid recovery id {v}")
        if strict > 1:
            raise HostFailure(f"ECDSA verify error: invalid malleability flag {strict}")
        digest = self.given(hash_len, hash_ptr)
        if len(digest) != 32:
            raise HostFailure(f"ECDSA verify error: invalid message length {len(digest)}")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if not (0 < r < _ORDER and 0 < s < _ORDER) or (strict and s > _ORDER // 2):
            return 0
        try:
            key = PublicKey.from_signature_and_message(signature + bytes([v]), digest, hasher=None)
        except Exception:  # the library raises plain exceptions: there is no such key
            return 0
        self.set_register(register, key.format(compressed=False)[1:])
        return 1

    def ed25519_verify(self, sig_len: int, sig_ptr: int, msg_len: int, msg_ptr: int, key_len: int, key_ptr: int) -> int:
        self.meter.burn(COSTS.ed25519_base)
        signature = self.given(sig_len, sig_ptr)
        if len(signature) != 64:
            raise HostFailure("ED25519 signature verification error: invalid signature length")
        message = self.given(msg_len, msg_ptr)
        self.meter.burn(COSTS.ed25519_byte * len(message))
        key = self.given(key_len, key_ptr)
        if len(key) != 32:
            raise HostFailure("ED25519 signature verification error: invalid public key length")
        return self.verifier.ed25519([key], [message], [signature])[0]

    # --- results and logs ---

    def value_return(self, count: int, at: int) -> None:
        self.meter.burn(COSTS.base)
        data = self.given(count, at)
        if len(data) > self.limits.max_returned_data:
            raise HostFailure(
                f"The length of a returned value {len(data)} exceeds the limit {self.limits.max_returned_data}"
            )
        fee = self.call.parameters.fees.data_receipt_byte
        for receiver in self.call.output_receivers:
            self.meter.data(fee, receiver.receiver_id == self.call.account_id, len(data))
        self.returned = data

    def panic(self) -> None:
        self.meter.burn(COSTS.base)
        raise HostFailure("Smart contract panicked: explicit guest panic")

    def panic_utf8(self, count: int, at: int) -> None:
        self.meter.burn(COSTS.base)
        raise HostFailure(f"Smart contract panicked: {self.text(count, at)}")

    def abort(self, message: int, file: int, line: int, column: int) -> None:
        self.meter.burn(COSTS.base)
        if message < 4 or file < 4:
            raise HostFailure("String encoding is bad UTF-16 sequence.")
        words = [self.text16(int.from_bytes(self.peek(at - 4, 4), "little"), at) for at in (message, file)]
        raise HostFailure(f'Smart contract panicked: {words[0]}, filename: "{words[1]}" line: {line} col: {column}')

    def _log(self, text: str) -> None:
        size = len(text.encode())
        self.meter.burn(COSTS.log_base + COSTS.log_byte * size)
        if len(self.logs) >= self.limits.max_logs:
            raise HostFailure(f"The number of logs will exceed the limit {self.limits.max_logs}")
        self._log_bytes += size
        if self._log_bytes > self.limits.max_log_bytes:
            raise HostFailure(
                f"The length of a log message {self._log_bytes} exceeds the limit {self.limits.max_log_bytes}"
            )
        self.logs.append(text)

    def log_utf8(self, count: int, at: int) -> None:
        self.meter.burn(COSTS.base)
        self._log(self.text(count, at))

    def log_utf16(self, count: int, at: int) -> None:
        self.meter.burn(COSTS.base)
        self._log(self.text16(count, at))

    # --- storage ---

    def _key(self, count: int, at: int, per_byte: int) -> bytes:
        key = self.given(count, at)
        if len(key) > self.limits.max_storage_key:
            raise HostFailure(f"The length of a storage key {len(key)} exceeds the limit {self.limits.max_storage_key}")
        self.meter.burn(per_byte * len(key))
        return data_key(self.call.account_id, key)

    def storage_write(self, key_len: int, key_ptr: int, value_len: int, value_ptr: int, register: int) -> int:
        self.not_in_view("storage_write")
        self.meter.burn(COSTS.base + COSTS.storage_write_base)
        key = self._key(key_len, key_ptr, COSTS.storage_write_key_byte)
        value = self.given(value_len, value_ptr)
        if len(value) > self.limits.max_storage_value:
            raise HostFailure(
                f"The length of a storage value {len(value)} exceeds the limit {self.limits.max_storage_value}"
            )
        self.meter.burn(COSTS.storage_write_value_byte * len(value))
        before = self.state.get(key)
        self.state.set(key, value)
        if before is None:
            own = len(key) - len(self.call.account_id) - 2
            self.storage += own + len(value) + self.call.parameters.record_bytes
            return 0
        self.meter.burn(COSTS.storage_write_evicted_byte * len(before))
        self.storage += len(value) - len(before)
        self.set_register(register, before)
        return 1

    def storage_read(self, key_len: int, key_ptr: int, register: int) -> int:
        self.meter.burn(COSTS.base + COSTS.storage_read_base)
        value = self.state.get(self._key(key_len, key_ptr, COSTS.storage_read_key_byte))
        if value is None:
            return 0
        self.meter.burn(COSTS.storage_read_value_byte * len(value))
        self.set_register(register, value)
        return 1

    def storage_remove(self, key_len: int, key_ptr: int, register: int) -> int:
        self.not_in_view("storage_remove")
        self.meter.burn(COSTS.base + COSTS.storage_remove_base)
        key = self._key(key_len, key_ptr, COSTS.storage_remove_key_byte)
        before = self.state.get(key)
        if before is None:
            return 0
        self.meter.burn(COSTS.storage_remove_value_byte * len(before))
        self.state.remove(key)
        self.storage -= len(key) - len(self.call.account_id) - 2 + len(before) + self.call.parameters.record_bytes
        self.set_register(register, before)
        return 1

    def storage_has_key(self, key_len: int, key_ptr: int) -> int:
        self.meter.burn(COSTS.base + COSTS.storage_has_key_base)
        return int(self.state.get(self._key(key_len, key_ptr, COSTS.storage_has_key_byte)) is not None)
