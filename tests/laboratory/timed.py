"""How long the policies themselves compute, on the machine that runs the laboratory. No other part has a clock."""

from time import thread_time

from tests.laboratory.dispatch import Dispatcher, Done, Given
from tests.laboratory.trace import Turn


class Timed:
    """A dispatcher of which every decision is timed."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.decisions: list[float] = []  # seconds

    def offer(self, engine: int, now: float) -> list[Given]:
        return self._dispatcher.offer(engine, now)

    def withdraw(self, engine: int, now: float) -> list[Given]:
        return self._dispatcher.withdraw(engine, now)

    def arrive(self, number: int, turn: Turn, now: float) -> list[Given]:
        began = thread_time()
        given = self._dispatcher.arrive(number, turn, now)
        self.decisions.append(thread_time() - began)
        return given

    def restored(self, given: Given, seconds: float, now: float) -> None:
        self._dispatcher.restored(given, seconds, now)

    def answered(self, done: Done, now: float) -> bool:
        return self._dispatcher.answered(done, now)

    def end(self, done: Done, saving: float, now: float) -> list[Given]:
        began = thread_time()
        given = self._dispatcher.end(done, saving, now)
        self.decisions.append(thread_time() - began)
        return given

    def saved(self, engine: int, seconds: float, now: float) -> list[Given]:
        return self._dispatcher.saved(engine, seconds, now)

    def wake_at(self) -> float | None:
        return self._dispatcher.wake_at()

    def wake(self, now: float) -> list[Given]:
        return self._dispatcher.wake(now)
