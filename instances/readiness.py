"""Whether requests can be served at all: what is refused for as long as nothing can, and when a start has failed."""

import logging
from collections.abc import Callable, Mapping

from slotproxy.instances.errors import ConfigurationError, InstanceError, ModelError, NoInstances, StartupError
from slotproxy.instances.failures import Cause
from slotproxy.instances.lifecycle import State
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.snapshot import Transition

logger = logging.getLogger(__name__)

ANOTHER_MAY_WORK = frozenset({Cause.LOCK_HELD, Cause.PORT_TAKEN})  # causes that concern one instance only

TO_BE_CHANGED: Mapping[Cause, type[InstanceError]] = {
    Cause.MODEL: ModelError,
    Cause.ARGUMENTS: ConfigurationError,
}  # by the user; without it another start would end the same way


class Readiness:
    """Judges after every step of an instance. `elsewhere`: whether upstreams can serve."""

    def __init__(self, fleet: Fleet, leases: Leases, elsewhere: Callable[[], bool]) -> None:
        self.settled = False  # every planned instance was started or given up
        self.hopeless: str | None = None  # one sentence, while nothing can serve without the user's help
        self.fatal: InstanceError | None = None  # why the start as a whole has failed
        self._fleet = fleet
        self._leases = leases
        self._elsewhere = elsewhere
        self._ever_ready = False
        self._closed = False

    def close(self) -> None:
        """Everything is being ended: what instances do says nothing any more."""
        self._closed = True

    def settle(self) -> None:
        """Every planned instance was started or given up."""
        self.settled = True
        self._judge()

    def stepped(self, transition: Transition) -> None:
        """An instance or upstream is in another state."""
        self._ever_ready = self._ever_ready or transition.after is State.READY
        if transition.after in {State.FAILED, State.STARTING}:
            self._judge()

    def start_failed(self, instance: Instance, planned: int) -> bool:
        """`instance`, one of so many `planned`, did not come up. True: the start as a whole has failed, see `fatal`."""
        failure = instance.status.failure
        another = failure is not None and failure.cause in ANOTHER_MAY_WORK and len(self._fleet.instances) < planned
        if self._ever_ready or self._elsewhere() or another:
            return False
        kind = StartupError if failure is None else TO_BE_CHANGED.get(failure.cause, StartupError)
        log = instance.directory / "engine.log"
        self.fatal = kind(f"no instance could be started: {instance.status.reason} (the engine's log is {log})")
        self.hopeless = str(self.fatal)
        return True

    def _judge(self) -> None:
        instances = self._fleet.instances
        if self._closed or not self.settled or self._elsewhere() or not instances:
            return
        hopeless = all(instance.status.state is State.FAILED for instance in instances)
        if hopeless and self.hopeless is None:
            sentence = self.hopeless = f"every instance has failed: {instances[-1].status.reason}"
            logger.error("%s", sentence)
            self._leases.refuse(lambda: NoInstances(sentence))
        elif not hopeless and self.hopeless is not None:
            self.hopeless = None
            self._leases.accept()
