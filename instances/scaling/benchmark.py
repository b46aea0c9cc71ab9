"""What is measured of engines by letting them work: the memory of one at work, the gain of one more."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from slotproxy.instances.profiles.fingerprint import NOWHERE
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.scaling import planner, workload
from slotproxy.instances.scaling.generations import Generations, NotMeasured, Obstacle, Run
from slotproxy.instances.scaling.memory_monitor import MemoryMonitor
from slotproxy.instances.scaling.planner import Pair
from slotproxy.instances.scaling.watermarks import Level
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds a generation of our own waits for clients to leave the engines alone
SAMPLE_EVERY = 0.2  # seconds between readings while engines work for us, or more: then readings may take
SAMPLING = 0.05  # of one core
PACE_TOKENS = 32  # of the prompt that shows how fast an engine reads
ANSWER_TOKENS = 2  # generated after a prompt that is only there to be read
STEPS = 2  # prompts of equal length, one after another
SHORTEST = 32  # tokens of one
RATE_TOKENS, MOST_TOKENS = 24, 256  # generated for a comparison
WINDOW = 0.5  # seconds a comparison's generation takes at least, or it is repeated with more tokens
ATTEMPTS = 8  # generations in one comparison, the repeated ones included


class Benchmark:
    """Of the engines that are started by what `launch` returns; `level` is how things stand now."""

    def __init__(
        self,
        generations: Generations,
        monitor: MemoryMonitor,
        launch: Callable[[], Launch | None],
        level: Callable[[], Level],
    ) -> None:
        self._generations = generations
        self._monitor = monitor
        self._launch = launch
        self._level = level

    async def fill(self, upstream: Upstream, tokens: int, seconds: float) -> None:
        """Let `upstream` read some of its context, in prompts of so many `tokens` that take about so many `seconds` at
        most, and learn from that what it will hold when all of it is filled.
        """
        launch = self._launch()
        if launch is None:
            return
        run = await self._read(upstream, launch, PACE_TOKENS)
        if isinstance(run, NotMeasured):
            return
        most = (launch.ctx * 3 // 4 - PACE_TOKENS) // STEPS
        step = max(SHORTEST, min(int(PACE_TOKENS / run.seconds * seconds), tokens, most))
        points: list[tuple[int, int]] = []
        for number in range(1, STEPS + 1):
            run = await self._read(upstream, launch, number * step)
            if isinstance(run, NotMeasured):
                if run.obstacle is Obstacle.ENGINE:
                    return
                break
            points.append((number * step, self._monitor.held_by(upstream)))
        if points:
            self._monitor.expect(planner.at_full_context(points, launch.ctx))

    async def compare(
        self, upstreams: Sequence[Upstream], min_gain: float, *, patience: float
    ) -> list[Pair] | NotMeasured:
        """Several pairs; `patience`: seconds for clients to leave the engines alone."""
        launch, pairs, tokens = self._launch(), list[Pair](), RATE_TOKENS
        if launch is None:
            return NotMeasured(obstacle=Obstacle.ENGINE, sentence="there is none to start")
        for attempt in range(ATTEMPTS):
            if planner.settled([after / before for before, after in pairs], min_gain):
                break
            sets = [upstreams[:-1], upstreams]
            runs: dict[int, Run] = {}
            for some in sets if attempt % 2 else reversed(sets):  # what changes over time hits both alike
                run = await self._run(some, *_request(launch, workload.STORY, tokens), patience)
                if isinstance(run, NotMeasured):
                    return run
                runs[len(some)] = run
            quickest = min(run.seconds for run in runs.values())
            if quickest < WINDOW and tokens < MOST_TOKENS:
                tokens = min(MOST_TOKENS, int(tokens * 2 * WINDOW / quickest) + 1)
                continue
            pairs.append((runs[len(upstreams) - 1].rate, runs[len(upstreams)].rate))
            if self._level().shortage or self._level().stall:
                return NotMeasured(obstacle=Obstacle.MEMORY)
        return pairs

    async def _read(self, upstream: Upstream, launch: Launch, tokens: int) -> Run | NotMeasured:
        request = _request(launch, workload.reading(tokens), ANSWER_TOKENS)
        run = await self._run([upstream], *request, PATIENCE)
        if isinstance(run, NotMeasured) and run.obstacle is Obstacle.ENGINE:
            logger.info("what instances hold at work cannot be measured: %s", run.sentence)
        return run

    async def _run(self, upstreams: Sequence[Upstream], path: str, body: Any, patience: float) -> Run | NotMeasured:
        """Memory is read again and again meanwhile, and the run ends when that gets short."""
        async with asyncio.TaskGroup() as tasks:
            run = tasks.create_task(self._generations.run(upstreams, path, body, patience))
            while not run.done():
                await self._monitor.read()
                if self._level().shortage:
                    run.cancel()
                await asyncio.wait({run}, timeout=max(SAMPLE_EVERY, self._monitor.reading_took / SAMPLING))
        await self._monitor.read()
        return NotMeasured(obstacle=Obstacle.MEMORY) if run.cancelled() else run.result()


def _request(launch: Launch, prompt: str, tokens: int) -> tuple[str, dict[str, Any]]:
    return workload.request(launch.profile.warm_up.path, launch.warm_up_body(NOWHERE), prompt, tokens)
