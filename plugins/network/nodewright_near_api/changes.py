"""What a block changed of the state: told where ``execution.save_state_changes`` is on.

``block_effects`` (and ``EXPERIMENTAL_changes_in_block``) names accounts and kinds of rows; ``changes`` (and
``EXPERIMENTAL_changes``) gives the rows. A row is told once a block, as the block left it, with the last transaction or
receipt that changed it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nodewright.interfaces.execution import HEAD
from nodewright_near.accounts import (
    ACCESS_KEY,
    ACCOUNT,
    CODE,
    DATA,
    Account,
    access_key_key,
    access_keys_prefix,
    account_key,
    code_key,
    data_key,
)
from nodewright_near.genesis import account_of_key
from nodewright_near.primitives import base58, key_text
from nodewright_near.records import Change
from nodewright_near.state import BY_RECEIPT, BY_TRANSACTION, decode_access_key
from nodewright_near_api import params as take
from nodewright_near_api.errors import handler_error, parse_error
from nodewright_near_api.params import OPTIMISTIC, Params
from nodewright_near_api.reads import ChainReads, Found
from nodewright_near_api.views import access_key_view, account_view, encoded

MAX_ASKED: Final = 1000
MAX_PREFIX: Final = 2048
TOUCHED: Final = {
    ACCOUNT: "account_touched",
    ACCESS_KEY: "access_key_touched",
    CODE: "contract_code_touched",
    DATA: "data_touched",
}

# Whether a row of the state is asked for.
Wanted = Callable[[bytes], bool]


class ChangeMethods:
    def __init__(self, reads: ChainReads) -> None:
        self._reads = reads

    def methods(self) -> dict[str, Callable[[Params], Awaitable[Any]]]:
        return {
            "EXPERIMENTAL_changes_in_block": self.changes_in_block,
            "block_effects": self.changes_in_block,
            "EXPERIMENTAL_changes": self.changes,
            "changes": self.changes,
        }

    async def changes_in_block(self, params: Params) -> dict[str, Any]:
        """Kinds and accounts, in the order of shards and then of their rows."""
        found = await self._reads.want(take.block_reference(params.take(("block_id",)), OPTIMISTIC))
        told: dict[tuple[str, str], None] = {}
        for change in await self._changes(found):
            kind, account = TOUCHED.get(change.key[0]), account_of_key(change.key)
            if kind is not None and account is not None:
                told[kind, account] = None
        changed = [{"type": kind, "account_id": account} for kind, account in told]
        return {"block_hash": base58(found.info.hash), "changes": changed}

    async def changes(self, params: Params) -> dict[str, Any]:
        given = params.take(())
        wanted = _wanted(given)
        found = await self._reads.want(take.block_reference(given))
        rows = [change for change in await self._changes(found) if wanted(change.key)]
        return {"block_hash": base58(found.info.hash), "changes": [_view(change) for change in rows]}

    async def _changes(self, found: Found) -> list[Change]:
        rows: list[Change] = []
        for shard in range(len(found.block.body.chunks)):
            if not found.block.is_new(shard):
                continue
            changes = await self._reads.node.execution.query(HEAD, "changes", block=found.info.hash, shard=shard)
            if changes is None:
                raise handler_error(
                    "NOT_SYNCED_YET",
                    f"what block {base58(found.info.hash)} changed in shard {shard} is not kept on this node: set "
                    "execution.save_state_changes = true for blocks to come",
                )
            rows += changes.values()
        return rows


def _accounts(given: Mapping[str, Any]) -> list[str]:
    names = take.want(given, "account_ids")
    if not isinstance(names, list) or len(names) > MAX_ASKED:
        raise parse_error(f"Failed parsing args: `account_ids` is not an array of at most {MAX_ASKED} account ids")
    return [take.account(name, "account_ids") for name in names]


def _keys(given: Mapping[str, Any]) -> set[bytes]:
    pairs = take.want(given, "keys")
    if not isinstance(pairs, list) or len(pairs) > MAX_ASKED or not all(isinstance(pair, dict) for pair in pairs):
        raise parse_error(
            f"Failed parsing args: `keys` is not an array of at most {MAX_ASKED} account ids with public keys"
        )
    return {
        access_key_key(take.account(take.want(pair, "account_id")), take.public_key(take.want(pair, "public_key")))
        for pair in pairs
    }


def _wanted(given: Mapping[str, Any]) -> Wanted:
    kind = take.text(given, "changes_type")
    if kind == "single_access_key_changes":
        return _keys(given).__contains__
    if kind == "account_changes":
        return {account_key(name) for name in _accounts(given)}.__contains__
    if kind == "contract_code_changes":
        return {code_key(name) for name in _accounts(given)}.__contains__
    if kind == "all_access_key_changes":
        prefixes = tuple(access_keys_prefix(name) for name in _accounts(given))
    elif kind == "data_changes":
        prefix = take.base64_bytes(given.get("key_prefix_base64", ""), "key_prefix_base64", MAX_PREFIX)
        prefixes = tuple(data_key(name, prefix) for name in _accounts(given))
    else:
        raise parse_error(f"Failed parsing args: unknown variant `{kind[:40]}` of changes_type")
    return lambda key: key.startswith(prefixes)


def _view(change: Change) -> dict[str, Any]:
    kind, named = _row(change)
    ended = "deletion" if change.value is None else "update"
    return {"cause": _cause(change), "type": f"{kind}_{ended}", "change": named}


def _cause(change: Change) -> dict[str, Any]:
    if change.cause == BY_TRANSACTION:
        return {"type": "transaction_processing", "tx_hash": base58(change.id)}
    if change.cause == BY_RECEIPT:
        return {"type": "receipt_processing", "receipt_hash": base58(change.id)}
    return {"type": "validator_accounts_update"}


def _row(change: Change) -> tuple[str, dict[str, Any]]:
    """The kind of row, and its parts with what is in it."""
    key, value = change.key, change.value
    account = account_of_key(key) or ""
    named: dict[str, Any] = {"account_id": account}
    if key[0] == ACCOUNT:
        return "account", named | ({} if value is None else account_view(Account.decode(value)))
    if key[0] == CODE:
        return "contract_code", named | ({} if value is None else {"code_base64": encoded(value)})
    if key[0] == ACCESS_KEY:
        named["public_key"] = key_text(key[len(access_keys_prefix(account)) :])
        access = {} if value is None else {"access_key": access_key_view(decode_access_key(value))}
        return "access_key", named | access
    named["key_base64"] = encoded(key[len(data_key(account, b"")) :])
    return "data", named | ({} if value is None else {"value_base64": encoded(value)})
