"""Machines nobody here has: instances that share a model, wire memory while they work, thrash, and find none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slotproxy.instances.decisions import Decision
from slotproxy.instances.scaling.calibration import Calibration
from slotproxy.instances.scaling.generations import NotMeasured, Obstacle
from slotproxy.instances.scaling.growth import Growth
from slotproxy.instances.scaling.planner import Pair
from slotproxy.instances.scaling.scalable import Arrival
from slotproxy.instances.scaling.watermarks import Level

GB, GIB = 10**9, 1 << 30


@dataclass(kw_only=True)
class Simulated:
    """A machine and the instances on it. Sizes in bytes, rates in tokens per second."""

    total: float  # of the governed memory
    percent: float = 80
    base: float = 0  # counts as used without any instance
    once: float = 0  # what all instances share, from the first one on
    each: float  # what one has of its own at work
    others: float = 0  # what other programs have of `total`
    rates: Sequence[float] = ()  # of 1, 2, ... instances together; further ones add nothing
    thrashes_at: int = 99  # so many at work make the machine stall
    out_of_memory_at: int = 99  # the engine of that one finds no memory at its warm-up
    obstacle: Obstacle | None = None  # what keeps instances from being compared
    running: int = 0
    busy: int = 0
    queued: int = 0
    most_used: float = 0
    starts: int = 0
    removed_hard: list[bool] = field(default_factory=list)
    _without_memory: bool = False

    @property
    def used(self) -> float:
        return self.base + bool(self.running) * self.once + self.running * self.each

    @property
    def limit(self) -> int:
        return int(self.total * self.percent / 100)

    def level(self) -> Level:
        free = self.total - self.used - self.others
        return Level(
            running=self.running,
            used=int(self.used),
            peak=int(self.used),
            next_cost=int(self.each),
            limit=self.limit,
            total=int(self.total),
            available=max(0, int(free)),
            stall="programs wait for memory" if self.running >= self.thrashes_at else "",
            idle=max(0, self.running - self.busy),
            out_of_memory=self._without_memory,
            queued=self.queued,
        )

    async def add(self) -> Arrival:
        self.starts += 1
        self.running += 1
        if self.running >= self.out_of_memory_at:
            self._without_memory = True
            return Arrival.OUT_OF_MEMORY
        self.most_used = max(self.most_used, self.used)
        return Arrival.READY

    async def remove(self, *, hard: bool) -> None:
        self.running -= 1
        self._without_memory = False
        self.removed_hard.append(hard)

    async def work(self, *, known: bool) -> None:
        pass

    async def compare(self, min_gain: float, *, wait: bool) -> list[Pair] | NotMeasured:
        if self.obstacle is not None:
            return NotMeasured(obstacle=self.obstacle)
        return [(self._rate(self.running - 1), self._rate(self.running))] * 2

    def why(self) -> str:
        return "Insufficient Memory (kIOGPUCommandBufferCallbackErrorOutOfMemory)"

    def _rate(self, count: int) -> float:
        return self.rates[min(count, len(self.rates)) - 1]

    async def settle(self, growth: Growth, known: Calibration | None = None) -> tuple[int, str]:
        """How many it comes to, and the reason."""
        decision = await growth.climb(self, known)
        return self.running, "" if decision is None else decision.reason

    async def live(
        self, growth: Growth, seconds: int, start: float = 0.0, each: Callable[[int], None] = lambda second: None
    ) -> list[tuple[int, Decision]]:
        """Look at the watermarks once a second; the decisions and when they were taken."""
        made = []
        for second in range(seconds):
            each(second)
            decision = await growth.watch(self, start + second)
            if decision is not None:
                made.append((second, decision))
        return made
