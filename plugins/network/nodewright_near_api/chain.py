"""Reads of the chain and the network: blocks, chunks, gas price, validators, status, the protocol's configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nodewright.interfaces.environment import Environment
from nodewright_near.chunks import ChunkBody
from nodewright_near.congestion import ShardCongestion
from nodewright_near.headers import ChunkHeader
from nodewright_near.primitives import base58, key_text
from nodewright_near_api import params as take
from nodewright_near_api.chainviews import block_view, chunk_view, rfc3339, stakes_view
from nodewright_near_api.errors import handler_error, unknown_block
from nodewright_near_api.params import OPTIMISTIC, Params, shown_key
from nodewright_near_api.protocol import genesis_config, protocol_config
from nodewright_near_api.reads import ChainReads, Found

# Half of nearcore's: a node that has made no block for so long is not healthy.
NO_NEW_BLOCKS_SECONDS: Final = 60.0
NO_PEER: Final = bytes(33)


class ChainMethods:
    def __init__(self, reads: ChainReads, environment: Environment, url: Callable[[], str]) -> None:
        self._reads = reads
        self._node = reads.node
        self._environment = environment
        self._url = url
        self._started = environment.monotonic()

    def methods(self) -> dict[str, Callable[[Params], Awaitable[Any]]]:
        return {
            "block": self.block,
            "chunk": self.chunk,
            "gas_price": self.gas_price,
            "validators": self.validators,
            "EXPERIMENTAL_validators_ordered": self.validators_ordered,
            "status": self.status_of,
            "health": self.health,
            "network_info": self.network_info,
            "EXPERIMENTAL_protocol_config": self.protocol_config,
            "EXPERIMENTAL_genesis_config": self.genesis_config,
            "genesis_config": self.genesis_config,
            "EXPERIMENTAL_congestion_level": self.congestion_level,
            "EXPERIMENTAL_maintenance_windows": self.maintenance_windows,
            "maintenance_windows": self.maintenance_windows,
        }

    # --- blocks ------------------------------------------------------------------------------------------------------

    async def block(self, params: Params) -> dict[str, Any]:
        found = await self._reads.want(take.block_reference(params.take(("block_id",))))
        return block_view(found.block, await self._reads.author(found.ref))

    async def chunk(self, params: Params) -> dict[str, Any]:
        """By its hash, or by block and shard."""
        return chunk_view(*await self._chunk(params))

    async def congestion_level(self, params: Params) -> dict[str, Any]:
        """Of the shard as the chunk shows it, from 0 to 1; a chunk is named as for ``chunk``."""
        header, _, _ = await self._chunk(params)
        load = ShardCongestion(header.inner.congestion_info)
        return {"congestion_level": float(load.level(self._reads.parameters.congestion))}

    async def _chunk(self, params: Params) -> tuple[ChunkHeader, ChunkBody, str]:
        given = params.take(("chunk_id",) if len(params.positional) == 1 else ("block_id", "shard_id"))
        if "chunk_id" in given:
            id = take.hash_of(given["chunk_id"], "chunk_id")
            found = await self._node.consensus.query("chunk", id=id)
        else:
            block = await self._reads.want(take.block_id(take.want(given, "block_id")))
            shard = take.whole(take.want(given, "shard_id"), "shard_id")
            if shard >= len(block.block.body.chunks):
                raise handler_error("INVALID_SHARD_ID", f"Shard id {shard} does not exist", {"shard_id": shard})
            id = block.block.body.chunks[shard].hash()
            found = await self._node.consensus.query("chunk", block=block.info.hash, shard=shard)
        if found is None:
            return await self._genesis_chunk(id)
        header, body, author = found
        return header, body, author

    async def _genesis_chunk(self, id: bytes) -> tuple[ChunkHeader, ChunkBody, str]:
        """It has no body that anybody would keep."""
        first = await self._reads.genesis()
        for header in first.block.body.chunks if first is not None else ():
            if header.hash() == id:
                return header, ChunkBody((), ()), ""
        raise handler_error("UNKNOWN_CHUNK", f"Chunk Missing (hash: {base58(id)})", {"chunk_hash": base58(id)})

    async def gas_price(self, params: Params) -> dict[str, Any]:
        given = params.take(("block_id",))
        reference = take.block_id(given["block_id"]) if "block_id" in given else OPTIMISTIC
        found = await self._reads.want(reference)
        return {"gas_price": str(found.block.header.inner_rest.next_gas_price)}

    # --- validators --------------------------------------------------------------------------------------------------

    async def _validators(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._node.consensus.query("validators")
        return found

    async def validators(self, params: Params) -> dict[str, Any]:
        """Of the epoch that goes on; an epoch or block of another one is refused, since only this one's counts are held."""
        given = params.take(("block_id",))
        found = await self._validators()
        if "epoch_id" in given:
            head = await self._reads.head()
            if take.hash_of(given["epoch_id"], "epoch_id") != head.info.epoch_id:
                raise handler_error("UNKNOWN_EPOCH", "Epoch not found", None)
        elif given.get("block_id", "latest") != "latest":
            asked = await self._reads.find(take.block_id(given["block_id"]))
            if asked is None or asked.info.epoch_start != found["epoch_start_height"]:
                raise handler_error("UNKNOWN_EPOCH", "Epoch not found", None)
        return {
            "current_validators": [_current(*one) for one in found["current"]],
            "next_validators": [
                {"account_id": name, "public_key": shown_key(key), "stake": str(stake), "shards": list(shards)}
                for name, key, stake, shards, *_ in found["next"]
            ],
            "current_fishermen": [],
            "next_fishermen": [],
            "current_proposals": stakes_view(
                [(name, shown_key(key), stake) for name, key, stake in found.get("proposals", ())]
            ),
            "prev_epoch_kickout": [{"account_id": name, "reason": reason} for name, reason in found.get("kicked", ())],
            "epoch_start_height": found["epoch_start_height"],
            "epoch_height": found["epoch_height"],
        }

    async def validators_ordered(self, params: Params) -> list[dict[str, Any]]:
        """Of the epoch of a block; of the head's, if none is named."""
        given = params.take(("block_id",))
        reference = take.block_id(given["block_id"]) if given.get("block_id") is not None else OPTIMISTIC
        epoch = await self._node.consensus.query("epoch", id=(await self._reads.want(reference)).info.epoch_id)
        validators = () if epoch is None else epoch.validators
        return stakes_view([(one.account_id, shown_key(one.public_key), one.stake) for one in validators])

    # --- the node ----------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        network, head, validators = await self._reads.network(), await self._reads.head(), await self._validators()
        first = await self._reads.genesis()
        status = self._node.consensus.status()
        key = key_text(NO_PEER)
        return {
            "version": {
                "version": str(self._node.info["version"]),
                "build": "nodewright",
                "commit": "",
                "rustc_version": "",
            },
            "chain_id": network["chain_id"],
            "protocol_version": network["protocol_version"],
            "latest_protocol_version": network["protocol_version"],
            "genesis_hash": base58(network["genesis_hash"]),
            "rpc_addr": self._url().partition("://")[2],
            "validators": [{"account_id": name} for name, *_ in validators["current"]],
            "sync_info": {
                "latest_block_hash": base58(head.info.hash),
                "latest_block_height": head.info.height,
                "latest_state_root": base58(head.block.header.inner_lite.prev_state_root),
                "latest_block_time": rfc3339(head.block.header.inner_lite.timestamp),
                "syncing": status.get("state") == "syncing",
                "epoch_id": base58(head.info.epoch_id),
                "epoch_start_height": head.info.epoch_start,
                **_earliest(first),
            },
            "validator_account_id": status.get("validator"),
            "validator_public_key": status.get("validator_key"),
            "node_public_key": status.get("node_key", key),
            "node_key": None,
            "uptime_sec": int(self._environment.monotonic() - self._started),
            "detailed_debug_status": None,
        }

    async def status_of(self, params: Params) -> dict[str, Any]:
        """One client gives it a finality; nothing is made of that."""
        return await self.status()

    async def health(self, params: Params) -> None:
        if self._node.consensus.status().get("state") == "syncing":
            raise handler_error("NODE_IS_SYNCING", "Node is syncing", None)
        head = await self._reads.head()
        # Of a node that has just begun nobody can say that it has stood still: its genesis may be years old.
        age = self._environment.now() - head.block.header.inner_lite.timestamp / 10**9
        age = min(age, self._environment.monotonic() - self._started)
        if age > NO_NEW_BLOCKS_SECONDS:
            elapsed = {"elapsed": {"secs": int(age), "nanos": 0}}
            raise handler_error("NO_NEW_BLOCKS", f"No blocks for {int(age)} s", elapsed)

    async def network_info(self, params: Params) -> dict[str, Any]:
        transport = self._node.transport
        peers = [] if transport is None else transport.peers()
        validators = await self._validators()
        return {
            "active_peers": [
                {"id": f"ed25519:{base58(peer.id)}", "addr": peer.address or None, "account_id": None} for peer in peers
            ],
            "num_active_peers": len(peers),
            "peer_max_count": len(peers),
            "sent_bytes_per_sec": 0,
            "received_bytes_per_sec": 0,
            "known_producers": [
                {"account_id": name, "addr": None, "peer_id": shown_key(key)} for name, key, *_ in validators["current"]
            ],
        }

    async def protocol_config(self, params: Params) -> dict[str, Any]:
        await self._reads.want(take.block_reference(params.take(("block_id",)), OPTIMISTIC))
        network, first = await self._reads.network(), await self._reads.genesis()
        if first is None:
            raise unknown_block("DB Not Found Error: the genesis block")
        return protocol_config(self._reads.parameters, network, first.block)

    async def genesis_config(self, params: Params) -> dict[str, Any]:
        network, first = await self._reads.network(), await self._reads.genesis()
        if first is None:
            raise unknown_block("DB Not Found Error: the genesis block")
        validators = self._node.genesis.get("consensus", {}).get("validators", ())
        return genesis_config(self._reads.parameters, network, first.block, validators)

    async def maintenance_windows(self, params: Params) -> list[list[int]]:
        """Heights at which a validator makes neither blocks nor chunks, from the head to the end of its epoch."""
        account = take.account(take.want(params.take(("account_id",)), "account_id"))
        windows = await self._node.consensus.query("idle", account=account)
        return [list(window) for window in windows]


def _current(
    name: str,
    key: bytes | str,
    stake: int,
    shards: Any,
    produced: int,
    expected: int,
    chunks: int = 0,
    chunks_expected: int = 0,
) -> dict[str, Any]:
    return {
        "account_id": name,
        "public_key": shown_key(key),
        "is_slashed": False,
        "stake": str(stake),
        "shards": list(shards),
        "num_produced_blocks": produced,
        "num_expected_blocks": expected,
        "num_produced_chunks": chunks,
        "num_expected_chunks": chunks_expected,
    }


def _earliest(first: Found | None) -> dict[str, Any]:
    if first is None:
        return {"earliest_block_hash": None, "earliest_block_height": None, "earliest_block_time": None}
    return {
        "earliest_block_hash": base58(first.info.hash),
        "earliest_block_height": first.info.height,
        "earliest_block_time": rfc3339(first.block.header.inner_lite.timestamp),
    }
