"""Who gives turns to engines: the proxy's own `Pool`, with its own policies, behind one small interface.

Nothing is decided here. What differs between dispatchers is what the pool is told, and what is done with its grants.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from slotproxy.instances.conversations.affinity import LONGEST_DELAY, Affinity, Saved
from slotproxy.instances.slots.line import Line
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
    keeps: bool = False  # what is in the slot is to be saved first
    restore: Text | None = None  # what is to be restored over the slot then


class Done(NamedTuple):
    """What an engine says of a turn that has been answered."""

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

    def withdraw(self, engine: int, now: float) -> list[Given]:
        """Give no more turns to `engine`."""

    def arrive(self, number: int, turn: Turn, now: float) -> list[Given]: ...

    def restored(self, given: Given, seconds: float, now: float) -> None:
        """What had to be saved and restored first has been; the turn is computed from now on."""

    def answered(self, done: Done, now: float) -> bool:
        """The client has its answer. Whether the text is to be saved before the slot is given to another."""

    def end(self, done: Done, saving: float, now: float) -> list[Given]:
        """The slot is free, after `saving` seconds for that."""

    def wake_at(self) -> float | None:
        """When `wake` is to be called though nothing has happened."""

    def wake(self, now: float) -> list[Given]: ...


class Plain:
    """The pool with a policy that knows nothing of conversations."""

    def __init__(self, policy: Policy, exclude: Mapping[int, frozenset[int]] | None = None, line: Line | None = None):
        """`exclude`: engines that are not for a conversation."""
        self._pool: Pool[int] = Pool(QUEUE_LIMIT, policy, line=line)
        self._exclude = exclude or {}
        self._woken = -math.inf
        self._numbers: dict[int, int] = {}  # by ticket
        self._tickets: dict[int, int] = {}  # by number

    def offer(self, engine: int, now: float) -> list[Given]:
        return self._given(self._pool.add(engine, now=now), now)

    def withdraw(self, engine: int, now: float) -> list[Given]:
        return self._given(self._pool.withdraw(engine, now)[1], now)

    def arrive(self, number: int, turn: Turn, now: float) -> list[Given]:
        exclude = self._exclude.get(turn.conversation, frozenset())
        claim = turn.claim()
        at_once = self._pool.take_for(claim, now, exclude)
        if at_once is not None:
            self._known(at_once[0], number)
            return self._given([at_once], now)
        ticket, grants = self._pool.join(exclude, claim, now)
        self._known(ticket, number)
        return self._given(grants, now)

    def restored(self, given: Given, seconds: float, now: float) -> None:
        pass

    def answered(self, done: Done, now: float) -> bool:
        return False

    def end(self, done: Done, saving: float, now: float) -> list[Given]:
        ticket = self._tickets.pop(done.number)
        del self._numbers[ticket]
        return self._given(self._pool.leave(ticket, now), now)

    def wake_at(self) -> float | None:
        expiry = self._pool.next_expiry
        return None if expiry is None or expiry <= self._woken else expiry

    def wake(self, now: float) -> list[Given]:
        self._woken = now
        return self._given(self._pool.expire(now), now)

    def _known(self, ticket: int, number: int) -> None:
        self._numbers[ticket] = number
        self._tickets[number] = ticket

    def _given(self, grants: list[Grant[int]], now: float) -> list[Given]:
        return [Given(self._numbers[grant.ticket], grant.member) for grant in grants]


class Remembering(Plain):
    """The pool with what the proxy knows of conversations: where each is, and which are saved."""

    def __init__(self, machine: Machine, *, waits: bool, hands_over: bool, line: Line | None = None) -> None:
        super().__init__(least_busy, line=line)
        self.affinity = Affinity(least_busy, waits=waits)
        self._pool.claim_policy = self.affinity
        self._build = "the same for all" if hands_over else None
        self._kv_bytes = machine.kv_bytes
        self._turns: dict[int, Any] = {}  # the affinity's, by number
        self._texts: dict[Any, Text] = {}  # by record: what its engine has of it
        self._store: OrderedDict[str, Text] = OrderedDict()
        self._saving: dict[int, Any] = {}  # by engine

    def offer(self, engine: int, now: float) -> list[Given]:
        self.affinity.forget(engine)
        self.affinity.add(engine, self._build)
        return super().offer(engine, now)

    def restored(self, given: Given, seconds: float, now: float) -> None:
        turn = self._turns[given.number]
        if given.restore is not None:
            self.affinity.restored(turn, seconds)
        self.affinity.sent(turn, now)

    def answered(self, done: Done, now: float) -> bool:
        turn = self._turns[done.number]
        self._texts[turn.record] = done.turn.text
        self.affinity.ended(
            turn,
            prompt=size(done.turn.prompt),
            completion=done.turn.answer.tokens,
            cached=done.cached,
            prefill=done.prefill,
            decode=done.decode,
            now=now,
        )
        held = self.affinity.to_be_saved(done.engine)
        if held is None or (self._pool.queued and self.affinity.saving(held.tokens) > LONGEST_DELAY):
            return False
        self._saving[done.engine] = held
        return True

    def end(self, done: Done, saving: float, now: float) -> list[Given]:
        held = self._saving.pop(done.engine, None)
        if held is not None:
            self._save(held, saving)
        del self._turns[done.number]
        self._pool.warm(done.engine, self.affinity.warmth(done.engine))
        return super().end(done, saving, now)

    def _given(self, grants: list[Grant[int]], now: float) -> list[Given]:
        return [self._one_given(grant) for grant in grants]

    def _one_given(self, grant: Grant[int]) -> Given:
        number, turn = self._numbers[grant.ticket], grant.turn
        self._turns[number] = turn
        restore = None if turn.restore is None else self.affinity.saved_as(turn.restore)
        text = None if restore is None else self._store[restore.name]
        return Given(number, grant.member, turn.keep is not None, text)

    def _save(self, held: Any, seconds: float) -> None:
        text, name = self._texts[held.record], f"{id(held.record)}"
        tokens = size(text)
        saved = Saved(name, self._build, held.prefix, tokens, tokens * self._kv_bytes)
        self._store[name] = text
        self.affinity.saved(held, saved, seconds)


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
    "+ affinity": lambda trace, machine, engines: Remembering(machine, waits=False, hands_over=False),
    "+ waiting": lambda trace, machine, engines: Remembering(machine, waits=True, hands_over=False),
    "+ hand-over": lambda trace, machine, engines: Remembering(machine, waits=True, hands_over=True),
    PINNED: lambda trace, machine, engines: Plain(least_busy, pins(trace, machine, engines)),
    ORACLE: lambda trace, machine, engines: Plain(least_busy, pins(trace, machine, engines)),
}
