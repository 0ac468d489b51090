"""What a block does to one shard of accounts: a pure function of a (whole or partial) tree and a request.

The same function runs on a node that keeps the shard and on one that has only a witness; that is all the proof that both
come to the same outcome needs. Formats here: receipts, parcels, the commitment of an outcome, the witness.

Commitment of an outcome = digest(state root, digest of the roots of the parcels it sends, by destination). The proof of a
parcel is the state root and those roots; the witness is the previous outcome's same two digests and the partial tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from attrs import define, field, frozen

from nodewright.interfaces import ExecutionRequest, Incomplete, Invalid, Outcome, Parcel
from nodewright.testing.shapes import sparse
from nodewright.testing.shapes.codec import MAX_BLOB, Malformed, Reader, digest, u8, u64, vector
from nodewright.testing.shapes.transfers import LIMIT, Account, Transfer, check, parse

MAX_SHARDS = 16
MAX_RECEIPTS = 4096


@frozen
class Receipt:
    """A credit on its way to another shard; ``cause`` is the transfer's id."""

    cause: bytes
    recipient: bytes
    amount: int

    def encode(self) -> bytes:
        return self.cause + self.recipient + u64(self.amount)


def shard_of(key: bytes, shards: int) -> int:
    return sha256(key).digest()[0] % shards


def row_key(key: bytes) -> bytes:
    return digest(b"account", key)


def row_value(key: bytes, account: Account) -> bytes:
    return key + account.encode()


def decode_receipts(payload: bytes) -> tuple[Receipt, ...]:
    """Raises Malformed."""
    reader = Reader(payload)
    receipts = reader.vector(lambda: Receipt(reader.hash(), reader.hash(), reader.u64()), MAX_RECEIPTS)
    reader.finish()
    if any(receipt.amount >= LIMIT for receipt in receipts):
        raise Malformed("an amount is out of range")
    return receipts


def parcel_root(source: int, destination: int, payload: bytes) -> bytes:
    return digest(b"parcel", u8(source), u8(destination), payload)


def outgoing_digest(roots: Mapping[int, bytes]) -> bytes:
    return digest(b"outgoing", *(u8(shard) + roots[shard] for shard in sorted(roots)))


def commitment(state_root: bytes, outgoing: bytes) -> bytes:
    return digest(b"outcome", state_root, outgoing)


def proves(parcel: Parcel) -> bool:
    """Whether the parcel is what its (agreed) commitment says was sent to its destination, and read at the right one."""
    reader = Reader(parcel.proof)
    try:
        state_root = reader.hash()
        roots = dict(reader.vector(lambda: (reader.u8(), reader.hash()), MAX_SHARDS))
        reader.finish()
    except Malformed:
        return False
    return (
        roots.get(parcel.destination) == parcel.root == parcel_root(parcel.source, parcel.destination, parcel.payload)
        and commitment(state_root, outgoing_digest(roots)) == parcel.commitment
    )


def encode_witness(outgoing: bytes, tree: sparse.Node | None) -> bytes:
    return outgoing + sparse.encode(tree)


def decode_witness(witness: bytes, parent_commitment: bytes | None) -> sparse.Node | None:
    """The partial tree of the state that ``parent_commitment`` commits to. Raises Malformed."""
    if len(witness) > MAX_BLOB:
        raise Malformed("the witness is too large")
    reader = Reader(witness)
    outgoing, tree = reader.hash(), sparse.decode(reader)
    reader.finish()
    if commitment(sparse.root(tree), outgoing) != parent_commitment:
        raise Malformed("the witness shows another state")
    return tree


@define
class _Run:
    tree: sparse.Node | None
    touched: dict[bytes, None] = field(factory=dict)

    def get(self, key: bytes) -> Account:
        row = row_key(key)
        self.touched[row] = None
        value = sparse.get(self.tree, row)
        return Account.decode(value[32:]) if value is not None else Account()

    def put(self, key: bytes, account: Account) -> None:
        self.tree = sparse.put(self.tree, row_key(key), row_value(key, account))


@frozen
class Effects:
    """``touched`` are row keys read or written; ``nonces`` the slots that transfers used."""

    tree: sparse.Node | None
    outcome: Outcome
    touched: tuple[bytes, ...]
    nonces: Mapping[tuple[bytes, int], bytes]


def run(tree: sparse.Node | None, request: ExecutionRequest, shards: int) -> Effects | Invalid | Incomplete:
    """Incoming receipts first, then transfers in block order. Raises ``sparse.LeftOut`` on a tree that lacks a part."""
    unproved = [parcel.root for parcel in request.incoming if not proves(parcel)]
    if unproved:
        return Incomplete(unproved)
    state = _Run(tree)
    for parcel in request.incoming:
        try:
            receipts = decode_receipts(parcel.payload)
        except Malformed as error:
            return Invalid("receipts", str(error))
        for receipt in receipts:
            account = state.get(receipt.recipient)
            state.put(receipt.recipient, Account(account.nonce, account.balance + receipt.amount))
    collected = _collect(request, shards)
    if not isinstance(collected, tuple):
        return collected
    txs, discarded = collected
    retry: dict[bytes, str] = {}
    nonces: dict[tuple[bytes, int], bytes] = {}
    leaving: dict[int, list[Receipt]] = {}
    for tx in txs:
        sender = state.get(tx.sender)
        refusal = check(tx, sender)
        if refusal is None:
            state.put(tx.sender, Account(sender.nonce + 1, sender.balance - tx.amount))
            nonces[(tx.sender, tx.nonce)] = tx.id
            destination = shard_of(tx.recipient, shards)
            if destination == request.shard:
                recipient = state.get(tx.recipient)
                state.put(tx.recipient, Account(recipient.nonce, recipient.balance + tx.amount))
            else:
                leaving.setdefault(destination, []).append(Receipt(tx.id, tx.recipient, tx.amount))
        elif request.invalid_transaction == "reject_block":
            return Invalid(refusal.code, refusal.message, transaction=tx.id)
        elif refusal.retry:
            retry[tx.id] = refusal.message
        else:
            discarded[tx.id] = (refusal.code, refusal.message)
    payloads = {shard: vector(receipts, Receipt.encode) for shard, receipts in sorted(leaving.items())}
    roots = {shard: parcel_root(request.shard, shard, payload) for shard, payload in payloads.items()}
    outgoing, state_root = outgoing_digest(roots), sparse.root(state.tree)
    proof = state_root + vector(sorted(roots.items()), lambda item: u8(item[0]) + item[1])
    outcome = Outcome(
        request.block,
        commitment(state_root, outgoing),
        discarded,
        retry,
        receipts=tuple(receipt.encode() for receipts in leaving.values() for receipt in receipts),
        outgoing={shard: Parcel(request.shard, shard, payloads[shard], roots[shard], proof) for shard in payloads},
        gas_used=len(nonces),
        detail={"state_root": state_root, "outgoing": outgoing},
    )
    return Effects(state.tree, outcome, tuple(state.touched), nonces)


def _collect(
    request: ExecutionRequest, shards: int
) -> tuple[Sequence[Transfer], dict[bytes, tuple[str, str]]] | Invalid | Incomplete:
    """Transfers of the request, each once; forged or misplaced ones are discarded or make the block invalid."""
    strict = request.invalid_transaction == "reject_block"
    txs: dict[bytes, Transfer] = {}
    discarded: dict[bytes, tuple[str, str]] = {}
    bare = [bundle for bundle in request.bundles if bundle.bodies is None]
    if bare:
        return Incomplete([bundle.id_at(index) for bundle in bare for index in range(len(bundle))])
    for bundle in request.bundles:
        for index, raw in enumerate(bundle.bodies or ()):
            id, problem, tx = bundle.id_at(index), None, None
            try:
                tx = parse(raw)
            except Malformed as error:
                problem = ("malformed", str(error))
            if tx is not None:
                if tx.id != id:
                    problem = ("identity", "a body does not hash to its id")
                elif not tx.signed:
                    problem = ("signature", "it is not signed by its sender")
                elif shard_of(tx.sender, shards) != request.shard:
                    problem = ("shard", "its sender lives in another shard")
                elif strict and id in txs:
                    problem = ("repeated", "a transaction occurs twice in the block")
            if problem is None and tx is not None:
                txs.setdefault(id, tx)
            elif strict and problem is not None:
                return Invalid(*problem, bundle.ref.id, id)
            elif problem is not None:
                discarded[id] = problem
    return list(txs.values()), discarded
