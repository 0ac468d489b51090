"""Transaction and view functions: what can be called by name in place of Move modules, and the registry of them.

A third party adds its own in a module that the setting ``functions`` of the execution names: the module has a function
``register_transaction_functions(functions)`` that gets the ``Functions`` registry and calls ``add``. All nodes of a network
have the same. A function is deterministic: it sees its arguments, the block's environment and the state through
``Call.view`` and nothing else; it changes the state through ``Call.view`` only, and ends without effect by raising
``Abort``.

Access sets. ``accesses`` says which keys a call may read and write, from the transaction alone: *declared*, so that a
block's state is loaded in one go and executors may run what does not conflict side by side. A declared set must hold every
key that is used: ``runtime`` does not look after it, ``Recorder`` and a transaction's output do in a test. Without it the
set is *recorded* while the function runs: its state is loaded when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from attrs import define, field, frozen

from nodewright_aptos import abi
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.resources import account_key, apt_store_key
from nodewright_aptos.state import Abort, BlockEnvironment, Read, TransactionView
from nodewright_aptos.transactions import EntryFunction, UserTransaction, function_key
from nodewright_aptos.typetags import TypeTag


@define
class Call:
    """One call of a function by a transaction. ``signers`` are the sender and the secondary signers; ``arguments`` are
    decoded (see ``abi``), signers not among them; ``module`` is where an Abort of the function happens."""

    view: TransactionView
    block: BlockEnvironment
    module: tuple[bytes, str]
    signers: tuple[bytes, ...]
    types: tuple[TypeTag, ...]
    arguments: tuple[Any, ...]

    @property
    def sender(self) -> bytes:
        return self.signers[0]

    def abort(self, code: int, reason: str = "", description: str = "") -> Abort:
        """To raise. ``code`` has Aptos's category in its third byte: 1 invalid argument, 3 invalid state, 5 permission
        denied, 6 not found, 8 already exists."""
        return Abort(self.module, code, reason, description)


@frozen
class Accesses:
    """Keys that may be read, keys that may be written (also among ``reads``), aggregators that may change."""

    reads: tuple[bytes, ...]
    writes: tuple[bytes, ...]
    aggregators: tuple[bytes, ...] = ()


# (signers, type arguments, decoded arguments) -> keys read, keys written
Declares = Callable[[tuple[bytes, ...], tuple[TypeTag, ...], tuple[Any, ...]], tuple[Sequence[bytes], Sequence[bytes]]]


@frozen
class TransactionFunction:
    """``parameters`` as a module's ABI names them, signers first (``&signer``); ``gas`` is charged for every call."""

    address: bytes
    module: str
    name: str
    parameters: tuple[str, ...]
    run: Callable[[Call], None]
    gas: int = 1
    type_parameters: int = 0
    accesses: Declares | None = None

    @property
    def signer_count(self) -> int:
        return sum(map(abi.is_signer, self.parameters))

    @property
    def argument_types(self) -> tuple[str, ...]:
        return tuple(one for one in self.parameters if not abi.is_signer(one))


@frozen
class ViewCall:
    read: Read
    block: BlockEnvironment
    module: tuple[bytes, str]
    types: tuple[TypeTag, ...]
    arguments: tuple[Any, ...]

    def abort(self, code: int, reason: str = "", description: str = "") -> Abort:
        return Abort(self.module, code, reason, description)


@frozen
class ViewFunction:
    """``run`` answers one value for each type of ``returns``."""

    address: bytes
    module: str
    name: str
    parameters: tuple[str, ...]
    returns: tuple[str, ...]
    run: Callable[[ViewCall], tuple[Any, ...]]
    type_parameters: int = 0


class ArgumentMismatch(Exception):
    """A call does not fit its function; the text is the name of the VM status."""


@define
class _Decoder:
    function: TransactionFunction
    readers: tuple[Callable[[bytes], Any], ...]
    signers: int


class Functions:
    """What can be called on a node. ``entries`` by function key; names are unique."""

    def __init__(self) -> None:
        self.entries: dict[bytes, _Decoder] = {}
        self.views: dict[bytes, ViewFunction] = {}
        # aggregators that any transaction may change: the supply, by its fee
        self.aggregators: tuple[bytes, ...] = ()
        # third parties' modules that are in it: what a process needs to have the same
        self.modules: list[str] = []

    def add_module(self, name: str) -> None:
        """What a module registers. Raises ImportError, AttributeError, ValueError."""
        import_module(name).register_transaction_functions(self)
        self.modules.append(name)

    def add(self, *functions: TransactionFunction) -> None:
        """Raises ValueError where the name is taken or a type is not known."""
        for function in functions:
            key = function_key(function.address, function.module, function.name)
            if key in self.entries:
                raise ValueError(f"the transaction function {function.module}::{function.name} is registered twice")
            readers = tuple(_reader(type) for type in function.argument_types)
            self.entries[key] = _Decoder(function, readers, function.signer_count)

    def add_views(self, *functions: ViewFunction) -> None:
        for function in functions:
            key = function_key(function.address, function.module, function.name)
            if key in self.views:
                raise ValueError(f"the view function {function.module}::{function.name} is registered twice")
            for type in function.parameters:
                abi.codec(type)
            self.views[key] = function

    def function(self, payload: EntryFunction) -> TransactionFunction | None:
        known = self.entries.get(payload.key)
        return None if known is None else known.function

    def call(
        self, view: TransactionView, block: BlockEnvironment, payload: EntryFunction, signers: tuple[bytes, ...]
    ) -> tuple[TransactionFunction, Call]:
        """Raises ArgumentMismatch; KeyError where there is no such function (``prologue.check_form`` finds that before)."""
        known = self.entries[payload.key]
        function = known.function
        arguments = _arguments(known, payload, len(signers))
        return function, Call(view, block, (function.address, function.module), signers, payload.type_arguments, arguments)

    def accesses(self, transaction: UserTransaction) -> Accesses | None:
        """What a transaction may touch, its prologue and epilogue included; None where that is not declared, or where it
        cannot be said because the call does not fit its function."""
        payload = transaction.payload
        known = self.entries.get(payload.key) if isinstance(payload, EntryFunction) else None
        if known is None or known.function.accesses is None or not isinstance(payload, EntryFunction):
            return None
        signers = (transaction.sender, *transaction.secondary)
        own = account_key(transaction.sender)
        coins = apt_store_key(transaction.payer)
        try:
            arguments = _arguments(known, payload, len(signers))
            reads, writes = known.function.accesses(signers, payload.type_arguments, arguments)
        except (ArgumentMismatch, Malformed):
            reads, writes = (), ()
        others = [account_key(one) for one in (*transaction.secondary, *filter(None, (transaction.fee_payer,)))]
        written = tuple(dict.fromkeys((own, coins, *writes)))
        return Accesses(tuple(dict.fromkeys((*written, *others, *reads))), written, self.aggregators)


def _reader(type: str) -> Callable[[bytes], Any]:
    if type == "address":
        return _address
    if type == "u64":
        return _u64
    abi.codec(type)
    return lambda data: abi.decode_argument(type, data)


def _address(data: bytes) -> bytes:
    if len(data) != 32:
        raise Malformed("an address has 32 bytes")
    return data


def _u64(data: bytes) -> int:
    if len(data) != 8:
        raise Malformed("a u64 has 8 bytes")
    return int.from_bytes(data, "little")


def _arguments(known: _Decoder, payload: EntryFunction, signers: int) -> tuple[Any, ...]:
    if known.signers and known.signers != signers:
        raise ArgumentMismatch("NUMBER_OF_SIGNER_ARGUMENTS_MISMATCH")
    if len(payload.type_arguments) != known.function.type_parameters:
        raise ArgumentMismatch("NUMBER_OF_TYPE_ARGUMENTS_MISMATCH")
    if len(payload.arguments) != len(known.readers):
        raise ArgumentMismatch("NUMBER_OF_ARGUMENTS_MISMATCH")
    try:
        return tuple([read(data) for read, data in zip(known.readers, payload.arguments, strict=True)])
    except Malformed as error:
        raise ArgumentMismatch("FAILED_TO_DESERIALIZE_ARGUMENT") from error


@define
class Recorder:
    """A ``Read`` that notes what is read: the recorded read set of a transaction. The write set is that of its output."""

    read: Read
    reads: dict[bytes, bytes | None] = field(factory=dict)

    def __call__(self, key: bytes) -> bytes | None:
        value = self.read(key)
        self.reads[key] = value
        return value
