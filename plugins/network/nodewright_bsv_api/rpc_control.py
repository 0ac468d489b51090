"""JSON-RPC methods that change something: mining, block marks, frozen outputs, bans, stop."""

from __future__ import annotations

from typing import Any

from nodewright.errors import ControlRefused
from nodewright.interfaces.execution import HEAD
from nodewright.interfaces.service import NodeHandle
from nodewright_bitcoin.network import address_to_script
from nodewright_bitcoin.transaction import Transaction
from nodewright_bsv_api.errors import display
from nodewright_bsv_api.params import INVALID_PARAMETER, MISC_ERROR, RpcError, want_hex, want_id, want_int

MAX_GENERATE = 10_000


class ControlMethods:
    def __init__(self, node: NodeHandle) -> None:
        self._node = node

    async def getminingcandidate(self, include_coinbase: Any = False) -> dict[str, Any]:
        """getminingcandidate ( include_coinbase ): what a miner needs to look for a block on the tip"""
        candidate = dict(await self._control("mining_candidate", coinbase=True))
        candidate.pop("fees")
        coinbase = Transaction.parse(bytes.fromhex(candidate["coinbase"]))
        if not include_coinbase:
            del candidate["coinbase"]
        return candidate | {"coinbaseValue": sum(output.satoshis for output in coinbase.outputs)}

    async def submitminingsolution(self, solution: Any) -> bool:
        """submitminingsolution {"id", "nonce", "coinbase"?, "time"?, "version"?}: a nonce found for a candidate"""
        if not isinstance(solution, dict) or not isinstance(solution.get("id"), str):
            raise RpcError(INVALID_PARAMETER, "the solution is an object with id and nonce")
        arguments: dict[str, Any] = {
            "id": solution["id"],
            "nonce": want_int(solution.get("nonce"), "nonce", 0, 2**32 - 1),
        }
        if solution.get("coinbase"):
            arguments["coinbase"] = want_hex(solution["coinbase"], "coinbase")
        for name in ("time", "version"):
            if solution.get(name) is not None:
                arguments[name] = want_int(solution[name], name, -(2**31), 2**32 - 1)
        return bool(await self._control("submit_solution", **arguments))

    async def generate(self, nblocks: Any, maxtries: Any = None) -> list[str]:
        """generate nblocks: mine blocks now, paid to the profile's payout script (local networks)"""
        return await self._generate(nblocks, None)

    async def generatetoaddress(self, nblocks: Any, address: Any, maxtries: Any = None) -> list[str]:
        """generatetoaddress nblocks "address": mine blocks now, paid to that address (local networks)"""
        chain = await self._node.execution.query(HEAD, "chain")
        try:
            script = address_to_script(address if isinstance(address, str) else "", chain)
        except ValueError as error:
            raise RpcError(-5, f"Invalid address: {error}") from None
        return await self._generate(nblocks, script)

    async def invalidateblock(self, blockhash: Any) -> None:
        """invalidateblock "blockhash": treat a block and all above it as invalid, as if it broke a rule"""
        await self._control("invalidate_block", id=want_id(blockhash, "blockhash"))

    async def reconsiderblock(self, blockhash: Any) -> None:
        """reconsiderblock "blockhash": take back invalidateblock"""
        await self._control("reconsider_block", id=want_id(blockhash, "blockhash"))

    async def freeze(self, txid: Any, vout: Any) -> bool:
        """freeze "txid" vout: nobody can spend this output until it is unfrozen or reassigned"""
        return await self._outputs("freeze", outpoints=[_outpoint(txid, vout)])

    async def unfreeze(self, txid: Any, vout: Any) -> bool:
        """unfreeze "txid" vout: take back freeze"""
        return await self._outputs("unfreeze", outpoints=[_outpoint(txid, vout)])

    async def reassign(self, txid: Any, vout: Any, script: Any) -> bool:
        """reassign "txid" vout "script": give a frozen output a new locking script, spendable 1000 blocks later"""
        return await self._outputs("reassign", changes=[(_outpoint(txid, vout), want_hex(script, "script"))])

    async def getpeerinfo(self) -> list[dict[str, Any]]:
        """getpeerinfo: connected peers"""
        transport = self._node.transport
        return [
            {
                "id": index,
                "addr": peer.address,
                "nodekey": peer.id.hex(),
                "inbound": peer.inbound,
                "version": peer.protocol,
                "banscore": peer.score,
            }
            for index, peer in enumerate(transport.peers() if transport else [])
        ]

    async def setban(self, peer: Any, command: Any, bantime: Any = 86400) -> None:
        """setban "node key" "add|remove" ( bantime ): refuse a peer for so many seconds"""
        transport = self._node.transport
        if transport is None:
            raise RpcError(MISC_ERROR, "this node has no transport")
        key = want_hex(peer, "the node key")
        if len(key) != 32:
            raise RpcError(INVALID_PARAMETER, "a node key is 64 hexadecimal digits (see getpeerinfo)")
        if command == "add":
            transport.ban(key, float(want_int(bantime, "bantime", 1, 10**9)), "banned over JSON-RPC")
        elif command == "remove":
            transport.unban(key)
        else:
            raise RpcError(INVALID_PARAMETER, "the command is add or remove")

    async def listbanned(self) -> list[dict[str, Any]]:
        """listbanned: peers that are refused, and until when"""
        transport = self._node.transport
        banned = transport.banned() if transport else {}
        return [{"nodekey": key.hex(), "banned_until": round(until)} for key, until in banned.items()]

    async def clearbanned(self) -> None:
        """clearbanned: take back every ban"""
        if self._node.transport is not None:
            self._node.transport.unban()

    async def stop(self) -> str:
        """stop: end this node cleanly"""
        self._node.request_stop()
        return "Nodewright stopping"

    async def _generate(self, count: Any, script: bytes | None) -> list[str]:
        number = want_int(count, "nblocks", 1, MAX_GENERATE)
        return [display(id) for id in await self._control("generate", count=number, payout=script)]

    async def _control(self, command: str, **arguments: Any) -> Any:
        try:
            return await self._node.consensus.control(command, **arguments)
        except ControlRefused as error:
            raise RpcError(MISC_ERROR, str(error)) from None

    async def _outputs(self, kind: str, **arguments: Any) -> bool:
        (refused,) = await self._node.execution.query(HEAD, kind, **arguments)
        if refused is not None:
            raise RpcError(MISC_ERROR, f"{kind} refused: the output is {refused.code}")
        return True


def _outpoint(txid: Any, vout: Any) -> bytes:
    return want_id(txid, "txid") + want_int(vout, "vout", 0, 2**32 - 1).to_bytes(4, "little")
