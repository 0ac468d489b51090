"""``/v1/accounts/…``: accounts, resources, modules, balances, their transactions and events; and table items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nodewright_aptos import abi, bcs
from nodewright_aptos.addresses import address_text
from nodewright_aptos.bcs import Malformed
from nodewright_aptos.resources import ACCOUNT
from nodewright_aptos.statekeys import MAX_STATE_KEY_BYTES, read_serialised, resource_key, resource_of
from nodewright_aptos.typetags import StructTag, parse_struct
from nodewright_aptos_api.config import AptosApiConfig
from nodewright_aptos_api.document import Part, json_part
from nodewright_aptos_api.errors import ApiError, account_not_found, invalid, not_found
from nodewright_aptos_api.forms import BCS
from nodewright_aptos_api.reads import Ledger, address_of, limit_of, parse_number, read_address, whole_number

MAX_CURSOR = 1024
HEXADECIMAL = abi.codec("vector<u8>").from_json


class Accounts:
    def __init__(self, ledger: Ledger, config: AptosApiConfig) -> None:
        self._ledger = ledger
        self._config = config

    async def _there(self, request: Request) -> tuple[bytes, dict[str, int], bytes]:
        """Address, version, and the account's resource."""
        address, at = address_of(request), await self._ledger.at(request)
        found: bytes | None = await self._ledger.ask("resource", address=address, type=ACCOUNT, **at)
        if found is None:
            version = at.get("version", (await self._ledger.state()).version)
            raise account_not_found(address, version)
        return address, at, found

    async def account(self, request: Request) -> Response:
        _, _, found = await self._there(request)
        return await self._ledger.answer(self._ledger.form(request).account(found))

    async def balance(self, request: Request) -> Response:
        """Of a coin type or a fungible asset's metadata address; 0 where there is none."""
        address, at = address_of(request), await self._ledger.at(request)
        try:
            amount = await self._ledger.ask("balance", address=address, asset=request.path_params["asset"], **at)
        except Malformed as error:
            raise invalid(f"failed to parse parameter asset_type: {error}") from None
        return await self._ledger.answer(self._ledger.form(request).balance(amount))

    async def resources(self, request: Request) -> Response:
        address, at, _ = await self._there(request)
        limit = limit_of(request, self._config.max_resources, self._config.max_resources)
        start = request.query_params.get("start")
        after = None if start is None else _cursor(start)
        rows = await self._ledger.ask("resources", address=address, after=after, limit=limit, **at)
        more = {"X-Aptos-Cursor": rows[-1][1].hex()} if len(rows) == limit else {}
        found = self._ledger.form(request).resources([(tag, value) for tag, _, value in rows])
        return await self._ledger.answer(found, **more)

    async def resource(self, request: Request) -> Response:
        address, at = address_of(request), await self._ledger.at(request)
        tag = _struct(request.path_params["type"])
        value = await self._ledger.ask("resource", address=address, type=tag, **at)
        if value is None:
            version = at.get("version", (await self._ledger.state()).version)
            raise not_found(
                "resource_not_found",
                f"Resource not found by Address({address_text(address)}), Struct tag({tag}) and Ledger version({version})",
            )
        return await self._ledger.answer(self._ledger.form(request).resource(tag, value))

    async def modules(self, request: Request) -> Response:
        address, at = address_of(request), await self._ledger.at(request)
        found = await self._ledger.ask("modules", address=address, **at)
        return await self._ledger.answer(self._ledger.form(request).modules(found))

    async def module(self, request: Request) -> Response:
        address, at = address_of(request), await self._ledger.at(request)
        name = request.path_params["name"]
        found = await self._ledger.ask("module", address=address, name=name, **at)
        if found is None:
            raise not_found(
                "module_not_found", f"Module not found by Address({address_text(address)}) and Module name({name[:255]})"
            )
        return await self._ledger.answer(self._ledger.form(request).module(found))

    async def transactions(self, request: Request) -> Response:
        address = address_of(request)
        start = whole_number(request, "start")
        limit = self._ledger.limit(request)
        rows = await self._ledger.ask("account_transactions", address=address, start=start, limit=limit)
        found = await self._ledger.all_committed(rows)
        return await self._ledger.answer(self._ledger.form(request).transactions(found))

    async def events(self, request: Request) -> Response:
        number = parse_number(request.path_params["creation_number"], "creation_number")
        return await self._events(request, address_of(request), number)

    async def events_by_handle(self, request: Request) -> Response:
        address, at = address_of(request), await self._ledger.at(request)
        tag, name = _struct(request.path_params["handle"]), request.path_params["field"]
        value = await self._ledger.ask("resource", address=address, type=tag, **at)
        if value is None:
            raise not_found(
                "resource_not_found", f"Resource not found by Address({address_text(address)}), Struct tag({tag})"
            )
        handle = self._ledger.views.resource(tag, value)["data"].get(name)
        if not isinstance(handle, dict) or "guid" not in handle:
            raise not_found("struct_field_not_found", f"Struct {tag} has no event handle {name[:255]!r}")
        id = handle["guid"]["id"]
        return await self._events(request, read_address(id["addr"]), int(id["creation_num"]))

    async def _events(self, request: Request, address: bytes, number: int) -> Response:
        start, limit = whole_number(request, "start"), self._ledger.limit(request)
        rows = await self._ledger.ask("events", address=address, creation_number=number, start=start or 0, limit=limit)
        found = self._ledger.form(request).events([(row.version, event) for row, _, event in rows])
        return await self._ledger.answer(found)

    # --- items of tables, values of the state ------------------------------------------------------------------------

    async def table_item(self, request: Request) -> Response:
        """``{"key_type", "value_type", "key"}``: an item of a table, of types that are known here."""
        document = await json_part(request)
        key_type, value_type, item = (document.field(name) for name in ("key_type", "value_type", "key"))
        key_type.parsed(abi.codec)
        key = item.read(lambda value: abi.json_argument(key_type.value, value))
        codec = value_type.parsed(abi.codec)
        value = await self._item(request, key, item.value)
        try:
            return await self._ledger.answer(self._ledger.form(request).item(codec, value))
        except Malformed as error:
            raise value_type.wrong(f"the item is no {value_type.value}: {error}") from None

    async def raw_table_item(self, request: Request) -> Response:
        """``{"key"}``, in BCS as hexadecimal: the item's bytes."""
        document = await self._raw(request)
        key = document.field("key")
        return await self._ledger.answer(await self._item(request, key.parsed(HEXADECIMAL), key.value))

    async def _item(self, request: Request, key: bytes, named: Any) -> bytes:
        """Raises ApiError, 404, where it is not there."""
        handle, at = read_address(request.path_params["handle"]), await self._ledger.at(request)
        value = await self._value(handle, key, at)
        if value is None:
            version = at.get("version", (await self._ledger.state()).version)
            raise not_found(
                "table_item_not_found",
                f"Table Item not found by Table handle({address_text(handle)}), Table key({str(named)[:200]}) "
                f"and Ledger version({version})",
            )
        return value

    async def _value(self, handle: bytes, key: bytes, at: Mapping[str, int]) -> bytes | None:
        if len(key) > MAX_STATE_KEY_BYTES - len(handle):
            return None
        value: bytes | None = await self._ledger.ask("table_item", handle=handle, key=key, **at)
        return value

    async def raw_state_value(self, request: Request) -> Response:
        """``{"key"}``: a StateKey in BCS as hexadecimal; its StateValue (of version 0: without metadata)."""
        document = await self._raw(request)
        at, given = await self._ledger.at(request), document.field("key")
        key = given.parsed(lambda text: bcs.whole(HEXADECIMAL(text), read_serialised))
        handle, tag = key[1:33], given.read(lambda _: resource_of(key))
        if key[0] == 1:
            value = await self._value(handle, key[33:], at)
        elif tag is not None and resource_key(handle, tag) == key:
            value = await self._ledger.ask("resource", address=handle, type=tag, **at)
        else:
            value = None  # code, or the name of nothing
        if value is None:
            raise not_found("state_value_not_found", f"State Value not found by State key({str(given.value)[:1000]})")
        return await self._ledger.answer(b"\0" + bcs.blob(value))

    async def _raw(self, request: Request) -> Part:
        """The request for what is told in BCS alone."""
        if not self._ledger.form(request).encoded:
            raise ApiError(403, "api_disabled", f"this is answered in BCS alone: ask for it with Accept: {BCS}")
        return await json_part(request)


def _struct(text: str) -> StructTag:
    try:
        return parse_struct(text)
    except Malformed as error:
        raise invalid(f"failed to parse a struct tag: {error}") from None


def _cursor(text: str) -> bytes:
    try:
        key = bytes.fromhex(text.removeprefix("0x")) if len(text) <= MAX_CURSOR else b""
        if not key or resource_of(key) is None:
            raise ValueError
    except (ValueError, Malformed):
        raise invalid("start must be the X-Aptos-Cursor of the page before") from None
    return key
