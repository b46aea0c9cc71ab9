"""The fleet as growth sees it: instances that are added, put to work, compared and taken out, and what they cost."""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from slotproxy.instances.errors import ModelError
from slotproxy.instances.failures import Cause
from slotproxy.instances.lifecycle import State
from slotproxy.instances.memory import process_tree
from slotproxy.instances.models import model
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.scaling import planner, sharing, workload
from slotproxy.instances.scaling.benchmark import Run, Trial, TrialFailed
from slotproxy.instances.scaling.calibration import NOWHERE
from slotproxy.instances.scaling.growth import Arrival
from slotproxy.instances.scaling.memory_monitor import MemoryMonitor
from slotproxy.instances.scaling.watermarks import Level
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds a generation of our own waits for clients to leave the engines alone
SAMPLE_EVERY = 0.2  # seconds between readings while engines work for us, or more: then readings may take
SAMPLING = 0.05  # of one core
PACE_TOKENS = 32  # of the prompt that shows how fast an engine reads
ANSWER_TOKENS = 2  # generated after a prompt that is only there to be read
STEPS = 2  # prompts of equal length, one after another
# Tokens of such a prompt, and seconds it may take: clients of the only instance may have to wait for it. The same on
# every machine that is not very slow, so that what is measured does not depend on what else it does.
ONLY_ONE, ONE_OF_SEVERAL = (128, 4.0), (256, 10.0)
SHORTEST = 32  # tokens
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
RATE_TOKENS, MOST_TOKENS = 24, 256  # generated for a comparison
WINDOW = 0.5  # seconds a comparison's generation takes at least, or it is repeated with more tokens
ATTEMPTS = 8  # generations in one comparison, the repeated ones included
GOING = 5.0  # seconds an idle instance takes to go, usually far less


class ScaledFleet:
    """The instances of one model. Its tasks belong to the group it is given."""

    def __init__(
        self,
        fleet: Fleet,
        leases: Leases,
        probe: Probe,
        monitor: MemoryMonitor,
        plan: Callable[[], Launch | None],
        failed: Callable[[Instance], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._fleet = fleet
        self._leases = leases
        self._trial = Trial(leases, probe)
        self._monitor = monitor
        self._plan = plan
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
            idle=sum(_idle(instance) for instance in fleet.staying),
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
        plan = self._plan()
        if plan is None:
            return Arrival.FAILED
        if not self._fleet.instances:
            await self._monitor.read()  # what is used without any: only some metrics start at nothing
        instance = self._fleet.add(plan, self._tasks)
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
        victim = self._without_memory() or self._fleet.newest_idle() or (staying[-1] if staying else None)
        if victim is None or len(staying) < 2:
            return
        going = self._tasks.create_task(self._fleet.remove(victim, 0.0 if hard else None))
        await asyncio.wait({going}, timeout=GOING)

    async def work(self, *, known: bool) -> None:
        staying = self._fleet.staying
        newest = staying[-1] if staying else None
        await self._monitor.read()
        if newest is None or newest.upstream is None:
            return
        if len(staying) == 1:
            await self._monitor.govern_gpu_if_used()
        if len(staying) <= 2 and not known:
            await self._fill(newest.upstream, *(ONLY_ONE if len(staying) == 1 else ONE_OF_SEVERAL))
        await self._monitor.read()

    async def compare(self, min_gain: float, *, wait: bool) -> list[tuple[float, float]] | None:
        upstreams = [upstream for instance in self._fleet.staying if (upstream := instance.upstream) is not None]
        if len(upstreams) < 2:
            return None
        try:
            return await self._compare(upstreams, min_gain, PATIENCE if wait else 0.0)
        except TrialFailed as error:
            logger.info("the instances cannot be compared: %s", error)
            return []

    async def check_sharing(self) -> bool:
        """Warn when every instance has a copy of the model's weights. Whether that could be found out."""
        plan = self._plan()
        instance = next((one for one in self._fleet.staying if _idle(one)), None)
        pid = None if instance is None else instance.member().pid
        if plan is None or instance is None or instance.memory is None or pid is None:
            return False
        try:
            facts = await asyncio.to_thread(model.check, plan.model)
        except ModelError:  # gone while it runs: the engine has what it needs
            return True
        if SPLIT.search(facts.path.name):  # what the other parts hold is not known here
            return True
        one_file = facts.kind == "gguf"
        mapping = await asyncio.to_thread(process_tree.mapped, pid, facts.path) if one_file else None
        kv = facts.shape.kv_token
        sentence = sharing.broken(
            weights=facts.size,
            kv=None if kv is None else kv * plan.ctx,
            own=instance.memory.private,
            mapping=mapping,
            seen=process_tree.DIVIDES and one_file,
        )
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

    async def _fill(self, upstream: Upstream, tokens: int, seconds: float) -> None:
        """Have `upstream` read some of its context, in prompts of so many `tokens` that take about so many `seconds` at
        most, and learn from that what it will hold when all of it is filled.
        """
        plan = self._plan()
        if plan is None:
            return
        try:
            run = await self._read(upstream, plan, PACE_TOKENS)
            if run is None:
                return
            most = (plan.ctx * 3 // 4 - PACE_TOKENS) // STEPS
            step = max(SHORTEST, min(int(PACE_TOKENS / run.seconds * seconds), tokens, most))
            points: list[tuple[int, int]] = []
            for number in range(1, STEPS + 1):
                if await self._read(upstream, plan, number * step) is None:
                    break
                points.append((number * step, self._monitor.own(upstream)))
        except TrialFailed as error:
            logger.info("what instances hold at work cannot be measured: %s", error)
            return
        if points:
            self._monitor.expect(planner.at_full_context(points, plan.ctx))

    async def _read(self, upstream: Upstream, plan: Launch, tokens: int) -> Run | None:
        return await self._run([upstream], *_request(plan, workload.reading(tokens), ANSWER_TOKENS), PATIENCE)

    async def _compare(
        self, upstreams: Sequence[Upstream], min_gain: float, patience: float
    ) -> list[tuple[float, float]] | None:
        plan, pairs, tokens = self._plan(), list[tuple[float, float]](), RATE_TOKENS
        for attempt in range(ATTEMPTS):
            if plan is None or planner.enough([after / before for before, after in pairs], min_gain):
                break
            sets = [upstreams[:-1], upstreams]
            runs: dict[int, Run] = {}
            for some in sets if attempt % 2 else reversed(sets):  # what changes over time hits both alike
                run = await self._run(some, *_request(plan, workload.STORY, tokens), patience)
                if run is None:
                    return None
                runs[len(some)] = run
            quickest = min(run.seconds for run in runs.values())
            if quickest < WINDOW and tokens < MOST_TOKENS:
                tokens = min(MOST_TOKENS, int(tokens * 2 * WINDOW / quickest) + 1)
                continue
            pairs.append((runs[len(upstreams) - 1].rate, runs[len(upstreams)].rate))
            if self.level().shortage or self.level().stall:
                return None
        return pairs

    async def _run(self, upstreams: Sequence[Upstream], path: str, body: Any, patience: float) -> Run | None:
        """A trial; memory is read again and again meanwhile, and it ends when that gets short."""
        async with asyncio.TaskGroup() as tasks:
            trial = tasks.create_task(self._tried(upstreams, path, body, patience))
            while not trial.done():
                await self._monitor.read()
                if self.level().shortage:
                    trial.cancel()
                await asyncio.wait({trial}, timeout=max(SAMPLE_EVERY, self._monitor.took / SAMPLING))
        await self._monitor.read()
        run = None if trial.cancelled() else trial.result()
        if isinstance(run, TrialFailed):
            raise run
        return run

    async def _tried(
        self, upstreams: Sequence[Upstream], path: str, body: Any, patience: float
    ) -> Run | TrialFailed | None:
        """A failure is returned: a task group would wrap it."""
        try:
            return await self._trial.run(upstreams, path, body, patience)
        except TrialFailed as error:
            return error


def _request(plan: Launch, prompt: str, tokens: int) -> tuple[str, dict[str, Any]]:
    return workload.request(plan.profile.warm_up.path, plan.warm_up_body(NOWHERE), prompt, tokens)


def _idle(instance: Instance) -> bool:
    return instance.status.state is State.READY and not instance.member().leased
