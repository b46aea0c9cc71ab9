"""The fleet as growth sees it: how things stand, and instances that are added, put to work, compared and removed."""

import asyncio
import logging
from collections.abc import Callable

from slotproxy.instances.failures import Cause
from slotproxy.instances.lifecycle import State
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.scaling import benchmark, sharing
from slotproxy.instances.scaling.benchmark import Benchmark
from slotproxy.instances.scaling.generations import Generations, NotMeasured, Obstacle
from slotproxy.instances.scaling.memory_monitor import MemoryMonitor
from slotproxy.instances.scaling.planner import Pair
from slotproxy.instances.scaling.scalable import Arrival
from slotproxy.instances.scaling.watermarks import Level
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.wording import instances

logger = logging.getLogger(__name__)

# Tokens of a prompt that is only there to be read, and seconds it may take: clients of the only instance may have to
# wait for it. The same on every machine that is not very slow, so that what is measured does not depend on what else it
# does.
ONLY_ONE, ONE_OF_SEVERAL = (128, 4.0), (256, 10.0)
LEAVING = 5.0  # seconds an idle instance takes to leave, usually far less


class ScaledFleet:
    """The instances of one model. Its tasks belong to the group it is given; `failed` is told of each instance that did
    not come up for another reason than memory.
    """

    def __init__(
        self,
        fleet: Fleet,
        leases: Leases,
        probe: Probe,
        monitor: MemoryMonitor,
        launch: Callable[[], Launch | None],
        failed: Callable[[Instance], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._fleet = fleet
        self._leases = leases
        self._monitor = monitor
        self._launch = launch
        self._benchmark = Benchmark(Generations(leases, probe), monitor, launch, self.level)
        self._failed = failed
        self._tasks = tasks
        self._said = ""

    def level(self) -> Level:
        fleet, monitor = self._fleet, self._monitor
        running = len(fleet.staying)
        return Level(
            running=running,
            used=monitor.used,
            peak=monitor.peak(running),
            next_cost=monitor.cost(running),
            limit=monitor.limit,
            total=monitor.total.size,
            available=monitor.available,
            stall=monitor.stall,
            idle=sum(_is_idle(instance) for instance in fleet.staying),
            leaving=len(fleet.instances) - running,
            out_of_memory=self._without_memory() is not None,
            queued=self._leases.queued,
            ceiling=fleet.ceiling,
            kind=monitor.machine.kind,
            remedy=monitor.machine.remedy,
        )

    def why(self) -> str:
        return self._said

    async def add(self) -> Arrival:
        launch = self._launch()
        if launch is None:
            return Arrival.FAILED
        if not self._fleet.instances:
            await self._monitor.read()  # what is used without any: only some metrics start at nothing
        instance = self._fleet.add(launch, self._tasks)
        if await instance.outcome() is State.READY:
            return Arrival.READY
        failure = instance.status.failure
        if failure is not None and failure.cause is Cause.OUT_OF_MEMORY and len(self._fleet.staying) > 1:
            self._said = failure.sentence
            return Arrival.OUT_OF_MEMORY
        self._failed(instance)
        return Arrival.FAILED

    async def remove(self, *, hard: bool) -> None:
        """In the background if it has to wait for a request."""
        staying = self._fleet.staying
        if hard:
            for instance in set(self._fleet.instances) - set(staying):
                instance.stop()
        chosen = self._without_memory() or self._fleet.newest_idle() or (staying[-1] if staying else None)
        if chosen is None or len(staying) < 2:
            return
        leaving = self._tasks.create_task(self._fleet.remove(chosen, 0.0 if hard else None))
        await asyncio.wait({leaving}, timeout=LEAVING)

    async def work(self, *, known: bool) -> None:
        staying = self._fleet.staying
        newest = staying[-1] if staying else None
        await self._monitor.read()
        if newest is None or newest.upstream is None:
            return
        if len(staying) == 1:
            await self._monitor.govern_gpu_if_used()
        if len(staying) <= 2 and not known:
            await self._benchmark.fill(newest.upstream, *(ONLY_ONE if len(staying) == 1 else ONE_OF_SEVERAL))
        await self._monitor.read()

    async def compare(self, min_gain: float, *, wait: bool) -> list[Pair] | NotMeasured:
        upstreams = [upstream for instance in self._fleet.staying if (upstream := instance.upstream) is not None]
        if len(upstreams) < 2:
            return NotMeasured(obstacle=Obstacle.TOO_FEW)
        logger.info("measuring: comparing %s with %d", instances(len(upstreams)), len(upstreams) - 1)
        found = await self._benchmark.compare(upstreams, min_gain, patience=benchmark.PATIENCE if wait else 0.0)
        if isinstance(found, NotMeasured) and found.obstacle is Obstacle.ENGINE:
            logger.info("the instances cannot be compared: %s", found.sentence)
        return found

    async def check_sharing(self) -> bool:
        """Warn when every instance has a copy of the model's weights. Whether that could be found out yet."""
        launch = self._launch()
        instance = next((one for one in self._fleet.staying if _is_idle(one)), None)
        if launch is None or instance is None or instance.memory is None:
            return False
        pid = instance.member().pid
        if pid is None:
            return False
        sentence = await asyncio.to_thread(sharing.check, launch, pid, instance.memory.private)
        if sentence is not None:
            logger.warning("%s", sentence)
        return True

    def _without_memory(self) -> Instance | None:
        """One of several whose engine ended for want of memory."""
        down = {State.BACKOFF, State.FAILED}
        for instance in reversed(self._fleet.staying[1:]):
            failure = instance.status.failure
            if instance.status.state in down and failure is not None and failure.cause is Cause.OUT_OF_MEMORY:
                self._said = failure.sentence
                return instance
        return None


def _is_idle(instance: Instance) -> bool:
    return instance.status.state is State.READY and not instance.member().leased
