"""Who gives turns to engines: the proxy's own `Pool`, behind one small interface.

Nothing is decided here. What differs between dispatchers is what the pool is told, and what is done with its grants.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from slotproxy.instances.slots.pool import Grant, Pool
from slotproxy.instances.slots.principal import cost
from slotproxy.instances.slots.routing import Policy
from tests.laboratory.texts import Text, size
from tests.laboratory.trace import Turn

QUEUE_LIMIT = 1_000_000  # nobody is refused here: what is compared is how long they wait


NO_TURN = -1


class Given(NamedTuple):
    """A turn, by its place in the trace, has the slot of `engine`; NO_TURN: the slot is to be saved and no more."""

    number: int
    engine: int
    keeps: bool = False  # what is in the slot is to be saved first
    restore: Text | None = None  # what is to be restored over the slot then
    believed: float = 0.0  # tokens of the prompt that the policy counts on not to be computed


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

    def saved(self, engine: int, seconds: float, now: float) -> list[Given]:
        """What was to be saved without a turn has been, and the slot is free."""

    def wake_at(self) -> float | None:
        """When `wake` is to be called though nothing has happened."""

    def wake(self, now: float) -> list[Given]: ...


class Plain:
    """The pool with a policy that knows nothing of conversations."""

    def __init__(self, policy: Policy, exclude: Mapping[int, frozenset[int]] | None = None, *, fair: bool = True):
        """`exclude`: engines that are not for a conversation. `fair`: else first come, first served."""
        self._pool: Pool[int] = Pool(QUEUE_LIMIT, policy)
        self._fair = fair
        self._exclude = exclude or {}
        self._woken = -math.inf  # a moment that is over stays the next one until a slot is free
        self._numbers: dict[int, int] = {}  # by ticket
        self._tickets: dict[int, int] = {}  # by number

    def offer(self, engine: int, now: float) -> list[Given]:
        return self._given(self._pool.add(engine, now=now), now)

    def withdraw(self, engine: int, now: float) -> list[Given]:
        self._pool.withdraw(engine)
        return self._given(self._pool.expire(now), now)

    def arrive(self, number: int, turn: Turn, now: float) -> list[Given]:
        exclude = self._exclude.get(turn.conversation, frozenset())
        claim = turn.claim() if self._fair else replace(turn.claim(), principal="")
        at_once = self._pool.take_for(claim, now, exclude)
        if at_once is not None:
            self._known(at_once.ticket, number)
            return self._given([at_once], now)
        ticket, grants = self._pool.join(exclude, claim, now)
        self._known(ticket, number)
        return self._given(grants, now)

    def restored(self, given: Given, seconds: float, now: float) -> None:
        pass

    def answered(self, done: Done, now: float) -> bool:
        took = cost(size(done.turn.prompt), done.turn.answer.tokens, done.cached)
        self._pool.served(self._tickets[done.number], took, now)
        return False

    def end(self, done: Done, saving: float, now: float) -> list[Given]:
        ticket = self._tickets.pop(done.number)
        del self._numbers[ticket]
        return self._given(self._pool.leave(ticket, now), now)

    def saved(self, engine: int, seconds: float, now: float) -> list[Given]:
        return []

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
