"""Reading everything a stopped node's stores hold, and saying whether it is whole. Writes nothing, repairs nothing.

- every row of every table is read (a store with checksums checks them then), keys in order where the store sorts;
- every blob is read whole and has the size it should. Its id is a hash by rules of the family, which this tool does not
  know: that the content is the right one is checked by the node that reads it;
- the format record is there and is of the data folder's network;
- where the UTXO adapter keeps its tables: that they agree with each other (``utxo_check``).
"""

from __future__ import annotations

from nodewright.db.contents import Sum, ids, measure_blob, pages
from nodewright.db.findings import Findings
from nodewright.db.progress import Progress, silent
from nodewright.db.stopped import StoppedNode, StoreSlot
from nodewright.db.utxo_check import UtxoCheck
from nodewright.errors import StoreError


async def verify_node(node: StoppedNode, findings: Findings, progress: Progress = silent) -> None:
    for store in node.stores:
        try:
            await _format(node, store, findings)
            if store.rows is not None:
                await _tables(store, findings, progress)
                if store.keeps_outputs:
                    await _utxo(store, findings, progress)
            elif store.bodies is not None:
                await _blobs(store, findings, progress)
            else:
                findings.say(f"{store.slot}: {store.describe()} keeps unspent outputs in a form of its own: not read")
        except StoreError as error:
            findings.damaged(f"{store.slot}: not readable to the end", str(error))
    findings.close()


async def _format(node: StoppedNode, store: StoreSlot, findings: Findings) -> None:
    record = await store.format()
    if record is None:
        findings.damaged(
            f"{store.slot}: no format record", "no node has used this store: is it the profile that the node runs with?"
        )
    elif (record.network, record.genesis) != (node.record.network, node.record.genesis):
        findings.damaged(
            f"{store.slot}: another network than the data folder's",
            f"{record.network!r} with genesis {record.genesis.hex()[:16]}",
        )
    elif record.store != store.kind_of_store:
        findings.damaged(
            f"{store.slot}: written as another kind of store", f"{record.store!r}, not {store.kind_of_store!r}"
        )


async def _tables(store: StoreSlot, findings: Findings, progress: Progress) -> None:
    assert store.rows is not None
    for table in await store.tables():
        found = Sum()
        last: bytes | None = None
        with progress(f"{store.slot} {table}", None) as advance:
            try:
                async for items in pages(store.rows, table):
                    found.add_rows(items)
                    keys = [key for key, _ in items]
                    if store.ordered and (sorted(set(keys)) != keys or (last is not None and keys[0] <= last)):
                        findings.damaged(f"{store.slot}: rows out of order", f"table {table}, near key {keys[0].hex()}")
                    last = keys[-1]
                    advance(len(items))
            except StoreError as error:
                findings.damaged(f"{store.slot}: table {table} is not readable to its end", str(error))
                continue
        said = found.measure
        findings.say(f"{store.slot}: {table}: read {said.count} rows, {said.size} bytes, digest {said.digest[:16]}")


async def _blobs(store: StoreSlot, findings: Findings, progress: Progress) -> None:
    assert store.bodies is not None
    for kind in await store.kinds():
        found = Sum()
        with progress(f"{store.slot} {kind}", None) as advance:
            async for id in ids(store.bodies, kind):
                try:
                    await measure_blob(store.bodies, kind, id, found)
                except StoreError as error:
                    findings.damaged(f"{store.slot}: a blob is not whole", str(error))
                advance(1)
        said = found.measure
        if said.count:
            findings.say(f"{store.slot}: {kind}: read {said.count} blobs, {said.size} bytes, digest {said.digest[:16]}")


async def _utxo(store: StoreSlot, findings: Findings, progress: Progress) -> None:
    assert store.rows is not None
    with progress(f"{store.slot} invariants", None) as advance:
        checked = await UtxoCheck(store.rows, store.slot, findings, advance).run()
    unspent = checked.unspent
    findings.say(
        f"{store.slot}: {checked.transactions} transactions checked against what they spend, their bundles and blocks; "
        f"applied block {checked.applied or 'none'}"
    )
    findings.say(
        f"{store.slot}: {unspent.count} unspent outputs of {unspent.satoshis} satoshis, digest {unspent.digest} "
        "(as in gettxoutsetinfo)"
    )
