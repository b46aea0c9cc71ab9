"""Who gives turns to engines: the proxy's own `Pool`, with its own policies, behind one small interface.

Nothing is decided here. What differs between dispatchers is what the pool is told, and what is done with its grants.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from slotproxy.instances.slots.pool import Grant, Pool
from slotproxy.instances.slots.routing import Policy, least_busy, round_robin
from tests.laboratory.machines import Machine
from tests.laboratory.texts import Text, size
from tests.laboratory.trace import Trace, Turn

QUEUE_LIMIT = 1_000_000  # nobody is refused here: what is compared is how long they wait


class Given(NamedTuple):
    """A turn, by its place in the trace, has the slot of `engine`."""

    number: int
    engine: int
    restore: Text | None = None  # what is to be restored over the slot first


class Done(NamedTuple):
    """What an engine says of a turn that has ended."""

    number: int
    engine: int
    turn: Turn
    cached: int  # tokens of the prompt that it did not compute
    prefill: float  # seconds
    decode: float


class Dispatcher(Protocol):
    """Asked at every event of a simulation; `now` never goes back."""

    def offer(self, engine: int, now: float) -> list[Given]:
        """`engine` may be used from now on. It has forgotten whatever it knew."""

    def withdraw(self, engine: int) -> None:
        """Give no more turns to `engine`."""

    def arrive(self, number: int, turn: Turn, now: float) -> list[Given]: ...

    def saves(self, done: Done, now: float) -> bool:
        """Whether the text of a turn is to be saved before its slot is given to another."""

    def end(self, done: Done, now: float) -> list[Given]:
        """The turn has ended and its slot is free."""

    def wake_at(self) -> float | None:
        """When `wake` is to be called though nothing has happened."""

    def wake(self, now: float) -> list[Given]: ...


class Plain:
    """The pool with a policy that knows nothing of conversations."""

    def __init__(self, policy: Policy, exclude: Mapping[int, frozenset[int]] | None = None) -> None:
        """`exclude`: engines that are not for a conversation."""
        self._pool: Pool[int] = Pool(QUEUE_LIMIT, policy)
        self._exclude = exclude or {}
        self._numbers: dict[int, int] = {}  # by ticket
        self._tickets: dict[int, int] = {}  # by number

    def offer(self, engine: int, now: float) -> list[Given]:
        return self._given(self._pool.add(engine))

    def withdraw(self, engine: int) -> None:
        self._pool.withdraw(engine)

    def arrive(self, number: int, turn: Turn, now: float) -> list[Given]:
        exclude = self._exclude.get(turn.conversation, frozenset())
        at_once = self._pool.take(exclude)
        if at_once is not None:
            self._known(at_once[0], number)
            return [Given(number, at_once[1])]
        ticket, grants = self._pool.join(exclude)
        self._known(ticket, number)
        return self._given(grants)

    def saves(self, done: Done, now: float) -> bool:
        return False

    def end(self, done: Done, now: float) -> list[Given]:
        ticket = self._tickets.pop(done.number)
        del self._numbers[ticket]
        return self._given(self._pool.leave(ticket))

    def wake_at(self) -> float | None:
        return None

    def wake(self, now: float) -> list[Given]:
        return []

    def _known(self, ticket: int, number: int) -> None:
        self._numbers[ticket] = number
        self._tickets[number] = ticket

    def _given(self, grants: list[Grant[int]]) -> list[Given]:
        return [Given(self._numbers[grant.ticket], grant.member) for grant in grants]


def pins(trace: Trace, machine: Machine, engines: int) -> dict[int, frozenset[int]]:
    """For each conversation that goes on, every engine but its own, so that all engines have about as much to do.

    The largest is placed first, each on the engine that has least: this knows what every turn will cost.
    """
    goes_on, work = trace.followed_up(), Counter[int]()
    for turn, known in zip(trace.turns, trace.known(), strict=True):
        if turn.conversation in goes_on:
            prefill = (size(turn.prompt) - known) / machine.prefill
            work[turn.conversation] += prefill + turn.answer.tokens / machine.decode  # type: ignore[assignment]
    load = [0.0] * engines
    everybody, placed = frozenset(range(engines)), {}
    for conversation, seconds in work.most_common():
        own = min(everybody, key=lambda engine: load[engine])
        load[own] += seconds
        placed[conversation] = everybody - {own}
    return placed


Maker = Callable[[Trace, Machine, int], Dispatcher]

PINNED, ORACLE = "pinned by hand", "oracle"
POLICIES: dict[str, Maker] = {
    "round-robin": lambda trace, machine, engines: Plain(round_robin),
    "least-busy": lambda trace, machine, engines: Plain(least_busy),
    PINNED: lambda trace, machine, engines: Plain(least_busy, pins(trace, machine, engines)),
    ORACLE: lambda trace, machine, engines: Plain(least_busy, pins(trace, machine, engines)),
}
