"""Starts the planned instances one after another, keeps them running, stops them all."""

from slotproxy.instances.leases import Lease, Leases
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.snapshot import OnTransition, Snapshot
from slotproxy.instances.upstream import Upstream


class Supervisor:
    """Owner of every upstream in `leases`. Sets `leases.owner` to itself.

    Order of calls: `await prepare()` once (raises before anything is spawned), `run()` as a task that ends when `stop` has
    finished or nothing could be started, `drain()` and `stop()` from the signal handling.
    """

    def __init__(self, settings: SupplySettings, leases: Leases, *, on_transition: OnTransition | None = None) -> None:
        raise NotImplementedError

    async def prepare(self) -> None:
        """Check everything that can be checked without an engine, take the state directory's lock, end leftovers.

        Raises ConfigurationError or ModelError (exit code 2), StartupError (exit code 1).
        """

    async def run(self) -> None:
        """Start and keep instances until `stop`. Calls `prepare` if nobody did.

        Raises StartupError or ModelError when no instance could be started. Cancelling it kills every engine at once.
        """

    async def drain(self) -> bool:
        """Refuse new leases and wait for those that are out, at most `drain_timeout`; whether none is left."""

    async def stop(self) -> None:
        """End every engine by its stop plan, in parallel; afterwards no process, lock or instance.json of ours is left."""

    def snapshot(self) -> Snapshot:
        raise NotImplementedError

    def abandoned(self, lease: Lease) -> None:
        """The slot comes back once the engine is idle."""

    def failed(self, upstream: Upstream, reason: str) -> None:
        """`hang` restarts the instance; anything else withdraws it until it is known to be alive."""
