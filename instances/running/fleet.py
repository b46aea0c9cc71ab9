"""The instances of one proxy: added, restarted and removed while the others serve."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import State
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.backoff import Backoff
from slotproxy.instances.running.instance import Company, Instance, Unaccompanied
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.snapshot import OnTransition

logger = logging.getLogger(__name__)

ON_REQUEST = Failure(cause=Cause.OPERATOR, sentence="restarted on request")


class Fleet:
    """Owns the instances. `changing` is held from the decision to add one until it is ready or has failed, so that
    memory is judged one at a time. Removing and restarting need no lock: neither costs more memory than there was.
    """

    def __init__(
        self,
        leases: Leases,
        probe: Probe,
        guardian: Guardian,
        directory: Callable[[int], Path],
        on_transition: OnTransition,
        backoff: Backoff,
        company: Company | None = None,
    ) -> None:
        self.changing = asyncio.Lock()
        self.ceiling: int | None = None  # so many did an operator leave; None: none was added or removed by hand
        self._rolling = asyncio.Lock()
        self._instances: list[Instance] = []
        self._leaving: set[Instance] = set()
        self._leases = leases
        self._probe = probe
        self._guardian = guardian
        self._directory = directory
        self._on_transition = on_transition
        self._backoff = backoff
        self._company: Company = company or Unaccompanied()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Those that are here, the ones on their way out included; oldest first."""
        return tuple(self._instances)

    @property
    def staying(self) -> tuple[Instance, ...]:
        """Those that are not being removed; oldest first."""
        return tuple(instance for instance in self._instances if instance not in self._leaving)

    def find(self, name: str) -> Instance | None:
        return next((instance for instance in self._instances if instance.id == name), None)

    def newest_idle(self) -> Instance | None:
        """The newest ready one without a request."""
        idle = (i for i in reversed(self.staying) if i.status.state is State.READY and not i.member().leased)
        return next(idle, None)

    def add(self, launch: Launch, tasks: asyncio.TaskGroup) -> Instance:
        """Start one more, as a task of `tasks`; its number is the lowest free one."""
        taken = {instance.id for instance in self._instances}
        number = next(number for number in range(len(taken) + 1) if str(number) not in taken)
        instance = Instance(
            str(number),
            launch,
            self._directory(number),
            self._leases,
            self._probe,
            self._guardian,
            self._on_transition,
            self._backoff,
            self._company,
        )
        self._instances.append(instance)
        tasks.create_task(instance.run())
        return instance

    async def remove(self, instance: Instance, patience: float | None) -> None:
        """No new leases on `instance`, up to `patience` seconds for those that are out (None: as long as they take);
        then its engine is stopped.
        """
        if instance in self._leaving or instance not in self._instances:
            return
        self._leaving.add(instance)
        try:
            await self._empty(instance, patience)
            instance.stop()
            await instance.ended()
        finally:
            self._leaving.discard(instance)
            if instance.has_ended:
                self._instances.remove(instance)
        logger.info("instance %s: removed; %d left", instance.id, len(self._instances))

    async def restart(self, instance: Instance, patience: float, launch: Launch | None = None) -> State:
        """End the engine of `instance` and start it again, by `launch` if one is given; what came of it.

        Requests on it may take up to `patience` seconds to end; new ones go elsewhere.
        """
        await self._empty(instance, patience)
        if instance in self._leaving:
            return instance.status.state
        instance.restart(ON_REQUEST, launch)
        return await instance.outcome()

    async def restart_in_turn(
        self, instances: Iterable[Instance], patience: float, launch: Launch | None = None
    ) -> bool:
        """Restart `instances` one after another; stop at the first that does not become ready. Whether all did.

        Without `launch`, one whose engine was started after this call began counts as restarted.
        """
        asked = {instance: instance.upstream for instance in instances}
        async with self._rolling:  # two at a time would take two out of service
            for instance, before in asked.items():
                if instance not in self._instances or instance in self._leaving:
                    continue
                fresh = instance.upstream is not before and instance.status.state is State.READY
                if fresh and launch is None:
                    continue
                if await self.restart(instance, patience, launch) is not State.READY and instance in self.staying:
                    logger.error("instance %s did not become ready again: the others are not restarted", instance.id)
                    return False
            return True

    async def _empty(self, instance: Instance, patience: float | None) -> None:
        """No new leases on `instance`; wait for those that are out."""
        upstream = instance.upstream
        instance.drain()
        if upstream is None:
            return
        try:
            async with asyncio.timeout(patience):
                await self._leases.drained(upstream)
                await self._company.leaving(upstream)
        except TimeoutError:
            logger.warning("instance %s: its request is ended, as it took more than %g s", instance.id, patience)
