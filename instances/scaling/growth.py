"""How many instances `--instances auto` runs: one more while it fits and is worth it, fewer when memory gets short.

Decides by `planner` and `watermarks` and acts through `Scalable`, so that tests can let it run on machines that are not
at hand.
"""

import logging
from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum
from statistics import median

from slotproxy.instances.decisions import Decision, DecisionCount, Move
from slotproxy.instances.scaling import planner
from slotproxy.instances.scaling.calibration import Calibration
from slotproxy.instances.scaling.generations import NotMeasured, Obstacle
from slotproxy.instances.scaling.planner import Pair
from slotproxy.instances.scaling.scalable import Arrival, Scalable
from slotproxy.instances.scaling.watermarks import Level, Watermarks
from slotproxy.instances.settings import SupplySettings

logger = logging.getLogger(__name__)

KEPT = 64  # decisions; all are counted


class Outcome(Enum):
    """What came of comparing the newest instance with one less."""

    NOT_NEEDED = "not-needed"  # each was compared already
    POSTPONED = "postponed"  # clients have the engines, memory got short, or an instance came or went meanwhile
    IMPOSSIBLE = "impossible"  # the engines cannot be measured: the newest stays
    KEPT = "kept"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Of the newest instance with one less."""

    outcome: Outcome
    decision: Decision | None = None  # where it was kept or removed


class Growth:
    """Of one supply; remembers its decisions and what it found out."""

    def __init__(self, settings: SupplySettings) -> None:
        self.decisions: deque[Decision] = deque(maxlen=KEPT)
        self._counts: Counter[tuple[Move, str]] = Counter()
        self.rates: dict[int, float] = {}  # tokens per second of so many instances together
        self._settings = settings
        self._watermarks = Watermarks()
        self._most: int | None = None  # more were found to gain nothing or to find no memory; None: not so far
        self._uncompared = 0  # so many of the newest were not compared with one less yet

    def reconfigure(self, settings: SupplySettings) -> None:
        """From now on by these settings; what was found out under others is forgotten."""
        self._settings = settings
        self._watermarks = Watermarks()
        self._most = None
        self._uncompared = 0
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
    def all_compared(self) -> bool:
        """Whether each instance was compared with one less, or need not be."""
        return not self._uncompared

    def decide(self, decision: Decision) -> Decision:
        """Count `decision`, keep it and log it."""
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

        `known`: as many as an earlier start found right are started without a comparison, memory permitting. Returns
        None when an instance failed for a reason that has nothing to do with their number.
        """
        if known is not None:
            self.rates.update((count, rate) for count, rate in enumerate(known.rates, start=1) if rate)
        if scaled.level().running and not scaled.level().next_cost:  # other engines than were measured
            await scaled.work(known=known is not None)
        while True:
            level = scaled.level()
            if known is not None and level.running >= known.instances:
                return self._use_known(known)
            decision = self.room(level, self.most)
            if level.running:
                self.decide(decision)
            if not decision.start:
                return decision
            arrival = await scaled.add()
            if arrival is Arrival.FAILED:
                return None
            verdict = await self._examine(scaled, arrival, compare=known is None)
            if verdict is not None:
                return verdict

    async def compare_newest(self, scaled: Scalable, *, wait: bool) -> Comparison:
        """With one instance less; it is removed when it gains too little.

        `wait`: a few seconds for clients to leave the engines alone.
        """
        running = scaled.level().running
        if not self._uncompared or running < 2:
            self._uncompared = 0
            return Comparison(outcome=Outcome.NOT_NEEDED)
        rates = await scaled.compare(self._settings.min_gain, wait=wait)
        if scaled.level().running != running:
            return Comparison(outcome=Outcome.POSTPONED)
        if isinstance(rates, NotMeasured):
            return self._not_measured(rates)
        return await self._judge(scaled, running, rates)

    def _not_measured(self, found: NotMeasured) -> Comparison:
        if found.obstacle is not Obstacle.ENGINE:
            return Comparison(outcome=Outcome.POSTPONED)
        self._uncompared = 0  # another time would end the same way
        return Comparison(outcome=Outcome.IMPOSSIBLE)

    async def _judge(self, scaled: Scalable, running: int, rates: list[Pair]) -> Comparison:
        one_less = self.rates.setdefault(running - 1, median(before for before, _ in rates))
        self.rates[running] = one_less * planner.gain(rates)
        decision = self.decide(planner.judge_newest(running=running, rates=rates, min_gain=self._settings.min_gain))
        if decision.move is not Move.REMOVE:
            self._uncompared = 0  # an instance that gains enough as the newest gained enough before, too
            return Comparison(outcome=Outcome.KEPT, decision=decision)
        self._uncompared -= 1
        self._most = running - 1
        await scaled.remove(hard=False)
        return Comparison(outcome=Outcome.REMOVED, decision=decision)

    async def watch(self, scaled: Scalable, now: float) -> Decision | None:
        """Act on the watermarks once, `now` in seconds; the decision, if there was one."""
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
            await self._add_back(scaled)
        return decision

    async def _add_back(self, scaled: Scalable) -> None:
        """Add an instance for which memory was too short before."""
        arrival = await scaled.add()
        running = scaled.level().running
        if arrival is Arrival.OUT_OF_MEMORY:
            await self._out_of_memory(scaled)
        elif arrival is Arrival.READY and self._settings.min_gain and running not in self.rates:
            self._uncompared += 1

    def _use_known(self, known: Calibration) -> Decision:
        if known.reason in {"no-gain", "engine-oom"}:
            self._most = known.instances
        return self.decide(
            planner.known(running=known.instances, reason=known.reason, sentence=known.sentence, at=known.at)
        )

    async def _examine(self, scaled: Scalable, arrival: Arrival, *, compare: bool) -> Decision | None:
        """Whether the instance that was just added may stay; the decision that ended the growth, if it did."""
        if arrival is Arrival.OUT_OF_MEMORY:
            return await self._out_of_memory(scaled)
        await scaled.work(known=not compare)
        verdict = self._too_much(scaled.level())
        if verdict is None and compare and scaled.level().running > 1 and self._settings.min_gain:
            self._uncompared += 1
            comparison = await self.compare_newest(scaled, wait=True)
            if comparison.outcome is Outcome.REMOVED:
                return comparison.decision
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
        return planner.over_limit(running=level.running, used=level.peak, limit=level.limit, kind=level.kind)

    async def _out_of_memory(self, scaled: Scalable) -> Decision:
        running = scaled.level().running
        self._most = max(1, running - 1)
        decision = self.decide(planner.out_of_memory(running=running, sentence=scaled.why()))
        await scaled.remove(hard=True)
        return decision
