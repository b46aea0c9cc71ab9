"""Engines of one host that work at once share its processor and memory. Pure: time is passed in.

Work is measured in the seconds it would take alone. Whenever an engine begins or ends, every other one on its host goes
on at another speed, so its end is foretold anew; foretellings that no longer hold are known by their number.
"""

import heapq
from dataclasses import dataclass

from tests.laboratory.machines import DECODE, PREFILL, Machine

SHARED = (PREFILL, DECODE)


@dataclass(slots=True)
class Work:
    """What an engine does now. `left`: seconds of work alone, as of `since`."""

    kind: str
    left: float
    since: float
    speed: float = 0.0
    foretold: int = 0


class Processors:
    """The work of all engines, and when each will be done."""

    def __init__(self, machine: Machine, engines: int) -> None:
        """`engines`: of all hosts; each host has `machine.engines` of them."""
        self._machine = machine
        self._works: list[Work | None] = [None] * engines
        self._busy = [0] * -(-engines // machine.engines)  # on each host, sharing
        self._ends: list[tuple[float, int, int]] = []  # when, foretelling, engine
        self._foretold = 0

    def begin(self, engine: int, kind: str, seconds: float, now: float) -> None:
        """Raises ValueError if `engine` is at work already."""
        if self._works[engine] is not None:
            raise ValueError(f"engine {engine} is at work already")
        work = self._works[engine] = Work(kind, seconds, now)
        if kind in SHARED:
            self._change(engine, 1, now)
        else:
            work.speed = 1.0
            self._foretell(engine, work)

    @property
    def next_end(self) -> float | None:
        """When the first engine will be done; None: none is at work."""
        while self._ends:
            when, foretold, engine = self._ends[0]
            work = self._works[engine]
            if work is not None and work.foretold == foretold:
                return when
            heapq.heappop(self._ends)
        return None

    def end(self) -> int:
        """The engine of `next_end`, which is idle from now on."""
        now, _, engine = heapq.heappop(self._ends)
        work, self._works[engine] = self._works[engine], None
        if work is not None and work.kind in SHARED:
            self._change(engine, -1, now)
        return engine

    def _change(self, engine: int, busy: int, now: float) -> None:
        host = engine // self._machine.engines
        self._busy[host] += busy
        first = host * self._machine.engines
        for other in range(first, min(first + self._machine.engines, len(self._works))):
            work = self._works[other]
            if work is not None and work.kind in SHARED:
                self._go_on(other, work, self._machine.speed(work.kind, self._busy[host]), now)

    def _go_on(self, engine: int, work: Work, speed: float, now: float) -> None:
        if speed == work.speed:
            return
        work.left, work.since, work.speed = max(0.0, work.left - (now - work.since) * work.speed), now, speed
        self._foretell(engine, work)

    def _foretell(self, engine: int, work: Work) -> None:
        self._foretold += 1
        work.foretold = self._foretold
        heapq.heappush(self._ends, (work.since + work.left / work.speed, self._foretold, engine))
