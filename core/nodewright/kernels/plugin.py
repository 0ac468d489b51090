"""The core's own verifier, ``native``: libsecp256k1 and libsodium, compiled loops behind it while it already answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from nodewright.interfaces.environment import Detaching, Environment
from nodewright.interfaces.verifier import Verifier
from nodewright.plugins.hooks import hookimpl
from nodewright.plugins.specs import VERIFIER, Dependencies, VerifierSpec, setting


@attrs.define
class NativeVerifierConfig:
    kernels: str = setting(
        "auto",
        help="auto compiles the batch kernels in the background while plain code serves; off stays plain",
        choices=("auto", "off"),
    )
    ed25519_batches: bool = setting(
        True, help="Ed25519 signatures are checked four side by side, 128 a batch; what that refuses, again by itself"
    )
    ecdsa_batches: bool = setting(
        True, help="ECDSA signatures are checked four side by side; what that refuses, again by libsecp256k1"
    )


@asynccontextmanager
async def open_native(
    config: NativeVerifierConfig, dependencies: Dependencies, environment: Environment
) -> AsyncIterator[Verifier]:
    """Yields at once. A compilation that is under way is left behind."""
    from nodewright.kernels.signatures import NativeVerifier

    async with trio.open_nursery() as nursery:
        if config.kernels == "auto":
            nursery.start_soon(warm_up_kernels, environment)
        yield NativeVerifier(config.ed25519_batches, config.ecdsa_batches)
        nursery.cancel_scope.cancel()


async def warm_up_kernels(environment: Environment, *modules: str) -> None:
    """Compile the core's kernels and those of ``modules`` off the event loop, and say what came of it. The variable
    NODEWRIGHT_KERNELS=off keeps every node of a machine on plain code, whatever its profile says."""
    from nodewright.kernels.switch import warm_up

    if os.environ.get("NODEWRIGHT_KERNELS") == "off":
        environment.logger.info("kernels stay plain", reason="NODEWRIGHT_KERNELS=off")
        return

    run = environment.detach if isinstance(environment, Detaching) else environment.offload
    reason = await run(warm_up, *modules)
    if reason is None:
        environment.logger.debug("kernels ready")
    else:
        environment.logger.warning("kernels stay plain", reason=reason)


@hookimpl
def register_verifiers() -> list[VerifierSpec]:
    return [
        VerifierSpec(
            name="native",
            summary="libsecp256k1 and libsodium in compiled loops that release the GIL",
            open=open_native,
            config=NativeVerifierConfig,
            provides=frozenset({VERIFIER}),
        )
    ]
