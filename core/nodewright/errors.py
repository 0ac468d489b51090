"""Every exception the node can die of or a caller must tell apart. Each message is a sentence for the operator that names
the fix where there is one."""

from __future__ import annotations


class NodewrightError(Exception):
    """Base of all; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class ConfigurationError(NodewrightError):
    """Bad TOML, override, plan or genesis file. ``problems`` lists all of them, one sentence each."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PluginError(NodewrightError):
    exit_code = 2


class MissingDriver(ConfigurationError):
    def __init__(self, driver: str, extra: str) -> None:
        super().__init__(f"the driver {driver!r} is not installed: run  pip install 'nodewright[{extra}]'")


class StoreError(NodewrightError):
    """A store failed. Nothing of the failed commit is visible."""


class StoreFull(StoreError):
    """No space left where the store lives."""


class StoreLocked(StoreError):
    """Another process holds the lease; the message names it."""

    exit_code = 2


class LeaseLost(StoreError):
    """Another owner took this store over: this one's commits are refused."""


class FormatMismatch(StoreError):
    """The store was written by or for something else."""

    exit_code = 2


class StoreCorrupt(StoreError):
    pass


class Pruned(NodewrightError):
    """The block's state is no longer held."""


class UnknownQuery(NodewrightError):
    pass


class UnknownControl(NodewrightError):
    pass


class ControlRefused(NodewrightError):
    pass


class TransportError(NodewrightError):
    pass


class PeerGone(TransportError):
    pass


class RequestTimeout(TransportError):
    pass


class PeerBusy(TransportError):
    """The peer cannot serve the body now: too many are asked of it, or its own store failed. Ask it again later."""


class NotHere(TransportError):
    """The peer does not have the body asked for."""


class BodyTooLarge(TransportError):
    pass


class AddressInUse(NodewrightError):
    exit_code = 2

    def __init__(self, address: str, slot: str) -> None:
        super().__init__(
            f"{slot}: the address {address} is taken by another process; stop it, or choose another with "
            f"--set {slot}.listen=HOST:PORT (port 0 picks a free one)"
        )
