"""How many instances `--instances auto` runs: one more while it fits and is worth it, fewer when memory gets short.

Decides by `planner` and `watermarks` and acts through `Scalable`, so that tests can let it run on machines that are not
at hand.
"""

import logging
from collections import Counter, deque
from enum import Enum
from statistics import median
from typing import Protocol

from slotproxy.instances.decisions import Decision, DecisionCount, Move
from slotproxy.instances.scaling import planner
from slotproxy.instances.scaling.calibration import Calibration
from slotproxy.instances.scaling.watermarks import Level, Watermarks
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.wording import instances

logger = logging.getLogger(__name__)

KEPT = 64  # decisions; all are counted


class Arrival(Enum):
    """What came of starting an instance."""

    READY = "ready"
    OUT_OF_MEMORY = "out-of-memory"  # its engine found no memory
    FAILED = "failed"


class Scalable(Protocol):
    """The instances and the machine below them."""

    def level(self) -> Level:
        """As of the last reading."""

    async def add(self) -> Arrival:
        """Start one more; what came of it."""

    async def remove(self, *, hard: bool) -> None:
        """Take the newest out: an idle one if there is one, else after its request, or at once if it is `hard`."""

    async def work(self, *, known: bool) -> None:
        """Let the newest read prompts, so that it holds what it will hold at work; then read memory.

        `known`: what it will hold is known from an earlier start.
        """

    async def compare(self, min_gain: float, *, wait: bool) -> list[tuple[float, float]] | None:
        """Tokens per second of all but the newest, and of all: several pairs, none if the engines cannot be compared.

        None: clients have the engines. `wait`: a few seconds for them to leave.
        """

    def why(self) -> str:
        """What the engine said that found no memory last."""


class Growth:
    """Keeps its decisions."""

    def __init__(self, settings: SupplySettings) -> None:
        self.decisions: deque[Decision] = deque(maxlen=KEPT)
        self._counts: Counter[tuple[Move, str]] = Counter()
        self.rates: dict[int, float] = {}  # tokens per second of so many instances together
        self._settings = settings
        self._watermarks = Watermarks()
        self._most: int | None = None  # found out to be enough; None: nothing but memory stands against more
        self._unproved = 0  # so many instances were not compared with one less yet

    def reconfigure(self, settings: SupplySettings) -> None:
        """From now on by these settings: what was found out under others does not hold."""
        self._settings = settings
        self._watermarks = Watermarks()
        self._most = None
        self._unproved = 0
        self.rates.clear()

    @property
    def most(self) -> int:
        """Instances that there may be."""
        return min(self._settings.max_instances, self._most or self._settings.max_instances)

    @property
    def counts(self) -> tuple[DecisionCount, ...]:
        """How often each kind of decision was taken."""
        return tuple(DecisionCount(decision=m, reason=r, count=n) for (m, r), n in self._counts.items())

    @property
    def proved(self) -> bool:
        """Whether every instance is known to be worth it."""
        return not self._unproved

    def decide(self, decision: Decision) -> Decision:
        """Keep it and say it."""
        self.decisions.append(decision)
        self._counts[decision.move, decision.reason] += 1
        logger.info("%s", decision.sentence)
        return decision

    def room(self, level: Level, most: int) -> Decision:
        """Whether one more would fit."""
        return planner.admit(
            running=level.running,
            max_instances=most,
            used=level.peak,
            next_cost=level.next_cost,
            limit=level.limit,
            available=level.available,
            reserve=level.reserve,
            kind=level.kind,
            remedy=level.remedy,
        )

    async def climb(self, scaled: Scalable, known: Calibration | None) -> Decision | None:
        """Add instances until one more would not fit or was not worth it; why it ended there.

        `known`: as many as an earlier start found right are started without proof, memory permitting. None: an instance
        failed for a reason that has nothing to do with their number.
        """
        if known is not None:
            self.rates.update((count, rate) for count, rate in enumerate(known.rates, start=1) if rate)
        if scaled.level().running and not scaled.level().next_cost:  # other engines than were measured
            await scaled.work(known=known is not None)
        while True:
            level = scaled.level()
            if known is not None and level.running >= known.instances:
                return self._as_known(known)
            decision = self.room(level, self.most)
            if level.running:
                self.decide(decision)
            if not decision.start:
                return decision
            arrival = await scaled.add()
            if arrival is Arrival.FAILED:
                return None
            verdict = await self._examine(scaled, arrival, prove=known is None)
            if verdict is not None:
                return verdict

    async def prove(self, scaled: Scalable, *, wait: bool) -> Decision | None:
        """Compare with one instance less, if clients leave the engines alone; the decision against the newest.

        `wait`: a few seconds for them to leave.
        """
        running = scaled.level().running
        if not self._unproved or running < 2:
            self._unproved = 0
            return None
        rates = await scaled.compare(self._settings.min_gain, wait=wait)
        if rates is None or scaled.level().running != running:
            return None
        if not rates:
            self._unproved = 0
            return None
        one_less = self.rates.setdefault(running - 1, median(before for before, _ in rates))
        self.rates[running] = one_less * planner.gain(rates)
        decision = self.decide(planner.proved(running=running, rates=rates, min_gain=self._settings.min_gain))
        if decision.move is not Move.REMOVE:
            self._unproved = 0  # what is worth it as the newest was worth it before
            return None
        self._unproved -= 1
        self._most = running - 1
        await scaled.remove(hard=False)
        return decision

    async def watch(self, scaled: Scalable, now: float) -> Decision | None:
        """One look at the watermarks, `now` in seconds: what was done about them."""
        level = scaled.level()
        if level.out_of_memory:
            return await self._out_of_memory(scaled)
        most = self.most if level.ceiling is None else level.ceiling
        decision = self._watermarks.judge(level, now, most)
        if decision is None:
            return None
        self.decide(decision)
        if decision.move is Move.REMOVE:
            await scaled.remove(hard=level.critical)
        elif decision.move is Move.ADD:
            await self._return(scaled)
        return decision

    async def _return(self, scaled: Scalable) -> None:
        """One that memory had kept away comes (back)."""
        arrival = await scaled.add()
        running = scaled.level().running
        if arrival is Arrival.OUT_OF_MEMORY:
            await self._out_of_memory(scaled)
        elif arrival is Arrival.READY and self._settings.min_gain and running not in self.rates:
            self._unproved += 1

    def _as_known(self, known: Calibration) -> Decision:
        if known.reason in {"no-gain", "engine-oom"}:
            self._most = known.instances
        sentence = f"{instances(known.instances)} as an earlier start found right ({known.sentence})"
        return self.decide(Decision(move=Move.STOP, reason=known.reason, sentence=sentence))

    async def _examine(self, scaled: Scalable, arrival: Arrival, *, prove: bool) -> Decision | None:
        """Of the instance that has just been added: the decision against it, if there is one."""
        if arrival is Arrival.OUT_OF_MEMORY:
            return await self._out_of_memory(scaled)
        await scaled.work(known=not prove)
        verdict = self._too_much(scaled.level())
        if verdict is None and prove and scaled.level().running > 1 and self._settings.min_gain:
            self._unproved += 1
            worthless = await self.prove(scaled, wait=True)
            if worthless is not None:
                return worthless
            verdict = self._too_much(scaled.level())
        if scaled.level().out_of_memory:
            return await self._out_of_memory(scaled)
        if verdict is None:
            return None
        self.decide(verdict)
        if verdict.move is Move.REMOVE:
            await scaled.remove(hard=False)
        return verdict

    def _too_much(self, level: Level) -> Decision | None:
        if level.stall:
            return planner.stalled(running=level.running, stall=level.stall)
        return planner.over(running=level.running, used=level.peak, limit=level.limit, kind=level.kind)

    async def _out_of_memory(self, scaled: Scalable) -> Decision:
        running = scaled.level().running
        self._most = max(1, running - 1)
        decision = self.decide(planner.out_of_memory(running=running, sentence=scaled.why()))
        await scaled.remove(hard=True)
        return decision
