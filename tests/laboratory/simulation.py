"""The laboratory's event loop: turns arrive, engines compute, and a dispatcher decides. Pure, and never the same clock.

Events of one moment come in a fixed order, so one trace, machine and dispatcher always give one result.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass

from tests.laboratory.dispatch import NO_TURN, Dispatcher, Done, Given
from tests.laboratory.kv import EngineMemory, PerfectMemory
from tests.laboratory.machines import DECODE, PREFILL, Machine
from tests.laboratory.processors import Processors
from tests.laboratory.texts import size
from tests.laboratory.trace import Trace

KEEP, RESTORE, COPY, SAVE, RESTART = "keep", "restore", "copy", "save", "restart"


@dataclass(slots=True)
class Served:
    """What became of a turn. Times are seconds from the beginning."""

    number: int
    arrived: float
    engine: int = -1
    granted: float = math.nan
    computes: float = math.nan  # from here on, after what was saved and restored
    first_token: float = math.nan
    answered: float = math.nan  # the client has all of the answer
    cached: int = 0
    believed: float = 0.0  # what the policy counted on of that
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of all turns, in the order of the trace."""

    trace: Trace
    machine: Machine
    engines: int
    served: tuple[Served, ...]
    seconds: float  # simulated


class _Engine:
    def __init__(self, memory: EngineMemory) -> None:
        self.memory = memory
        self.given: Given | None = None
        self.serves: Served | None = None
        self.phases: deque[tuple[str, float]] = deque()
        self.phase, self.seconds = "", 0.0  # what it does, and how long that takes alone
        self.restarting = False


class Simulation:
    """One run of a trace."""

    def __init__(
        self, trace: Trace, machine: Machine, dispatcher: Dispatcher, *, engines: int = 0, forgets: bool = True
    ) -> None:
        """`engines`: of all hosts; 0: of one. `forgets`: whether engines do."""
        self._trace, self._machine, self._dispatcher = trace, machine, dispatcher
        memory = EngineMemory if forgets else PerfectMemory
        count = engines or machine.engines
        self._engines = [_Engine(memory(machine.cache_ram, machine.kv_bytes)) for _ in range(count)]
        self._processors = Processors(machine, count)
        self._served: list[Served | None] = [None] * len(trace.turns)
        self._arrivals: list[tuple[float, int]] = []
        self._waits_for = [len(turn.after) for turn in trace.turns]
        self._followers: dict[int, list[int]] = {}
        for number, turn in enumerate(trace.turns):
            for before in turn.after:
                self._followers.setdefault(before, []).append(number)
        self._ended = 0
        self._now = 0.0

    def run(self) -> Run:
        """Raises RuntimeError if a turn is left over when nothing more happens."""
        for number, turn in enumerate(self._trace.turns):
            if not turn.after:
                heapq.heappush(self._arrivals, (turn.pause, number))
        for engine in range(len(self._engines)):
            self._give(self._dispatcher.offer(engine, 0.0))
        while self._step():
            pass
        served = tuple(one for one in self._served if one is not None and not math.isnan(one.answered))
        if len(served) < len(self._trace.turns):
            raise RuntimeError(f"{len(self._trace.turns) - len(served)} turns were never served")
        return Run(
            trace=self._trace, machine=self._machine, engines=len(self._engines), served=served, seconds=self._now
        )

    def _step(self) -> bool:
        """The next event: an engine is done before a turn arrives, and both before a wait is over."""
        ends, arrives = self._processors.next_end, self._arrivals[0][0] if self._arrivals else None
        wakes = self._dispatcher.wake_at()
        times = [time for time in (ends, arrives, wakes) if time is not None]
        if not times:
            return False
        self._now = max(self._now, min(times))
        if ends is not None and ends <= self._now:
            self._phase_over(self._processors.end())
        elif arrives is not None and arrives <= self._now:
            self._arrive(heapq.heappop(self._arrivals)[1])
        else:
            self._give(self._dispatcher.wake(self._now))
        return True

    def _arrive(self, number: int) -> None:
        if self._served[number] is not None:
            raise RuntimeError(f"turn {number} arrives a second time")
        self._served[number] = Served(number, self._now)
        self._give(self._dispatcher.arrive(number, self._trace.turns[number], self._now))

    def _give(self, given: list[Given]) -> None:
        for one in given:
            self._begin(one)

    def _begin(self, given: Given) -> None:
        number, name, keeps, restore, believed = given
        engine = self._engines[name]
        if engine.given is not None or engine.restarting:
            raise RuntimeError(f"engine {name} is given a second turn")
        if number == NO_TURN:
            engine.given = given
            engine.phases.append((SAVE, self._machine.save(size(engine.memory.slot))))
            self._next_phase(name)
            return
        served = self._served[number]
        if served is None or served.engine >= 0:
            raise RuntimeError(f"turn {number} is given an engine out of turn")
        turn, machine = self._trace.turns[number], self._machine
        engine.given, engine.serves, served.engine, served.granted = given, served, name, self._now
        saving = machine.save(size(engine.memory.slot)) if keeps else 0.0
        restoring = 0.0
        if restore is not None:
            engine.memory.overwrite(restore)
            served.restored = True
            restoring = machine.restore(size(restore))
        served.believed = believed
        served.cached, copied = engine.memory.begin(turn.prompt)
        computed = size(turn.prompt) - served.cached
        engine.phases.append((KEEP, saving))
        engine.phases.append((RESTORE, restoring))
        engine.phases.append((COPY, copied * machine.kv_bytes / machine.copying))
        # The first token of the answer comes with the last step of the prompt.
        engine.phases.append((PREFILL, computed / machine.prefill))
        engine.phases.append((DECODE, max(0, turn.answer.tokens - 1) / machine.decode))
        self._next_phase(name)

    def _next_phase(self, name: int) -> None:
        engine = self._engines[name]
        engine.phase, engine.seconds = engine.phases.popleft()
        self._processors.begin(name, engine.phase, engine.seconds, self._now)

    def _phase_over(self, name: int) -> None:
        engine = self._engines[name]
        served, given = engine.serves, engine.given
        if given is None:  # it was restarted
            engine.restarting = False
            self._give(self._dispatcher.offer(name, self._now))
            return
        if served is None:  # it had no turn
            engine.given = None
            self._give_after(name, self._dispatcher.saved(name, engine.seconds, self._now))
            return
        if engine.phase == RESTORE:
            self._dispatcher.restored(given, engine.seconds, self._now)
        elif engine.phase == COPY:
            served.computes = self._now
        elif engine.phase == PREFILL:
            served.first_token = self._now
        elif engine.phase == DECODE:
            self._answered(name, engine, served)
        if engine.phases:
            self._next_phase(name)
        else:
            self._free(name, engine, served)

    def _answered(self, name: int, engine: _Engine, served: Served) -> None:
        served.answered = self._now
        turn = self._trace.turns[served.number]
        engine.memory.end(turn.text)
        self._ended += 1
        for follower in self._followers.get(served.number, ()):
            self._waits_for[follower] -= 1
            if not self._waits_for[follower]:
                heapq.heappush(self._arrivals, (self._now + self._trace.turns[follower].pause, follower))
        if self._dispatcher.answered(self._done(name, served), self._now):
            engine.phases.append((SAVE, self._machine.save(size(turn.text))))
        if self._ended == self._trace.restart_after:
            self._restart_all()

    def _free(self, name: int, engine: _Engine, served: Served) -> None:
        engine.serves = engine.given = None
        saving = engine.seconds if engine.phase == SAVE else 0.0
        self._give_after(name, self._dispatcher.end(self._done(name, served), saving, self._now))

    def _give_after(self, name: int, given: list[Given]) -> None:
        if self._engines[name].restarting:
            self._restart(name)
        self._give(given)

    def _done(self, name: int, served: Served) -> Done:
        return Done(
            number=served.number,
            engine=name,
            turn=self._trace.turns[served.number],
            cached=served.cached,
            prefill=served.first_token - served.computes,
            decode=served.answered - served.first_token,
        )

    def _restart_all(self) -> None:
        """Each as soon as its turn has ended."""
        for name, engine in enumerate(self._engines):
            engine.restarting = True
            if engine.given is None:
                self._restart(name)
        for name in range(len(self._engines)):
            self._give(self._dispatcher.withdraw(name, self._now))

    def _restart(self, name: int) -> None:
        self._engines[name].memory.clear()
        self._processors.begin(name, RESTART, self._machine.restart_seconds, self._now)
