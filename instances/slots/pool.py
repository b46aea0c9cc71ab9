"""Slots, the queue before them and the leases on them. Pure: callers do the waiting.

State is three mappings: seats (who offers how many slots), leases (ticket to seat) and the queue (ticket to what it
waits for, in the order of the `line`). Every method that can free or add a slot returns the grants that follow from it.

A ticket may hold out: a slot is free that it could have, but its claim is better served by one that is not. It does so
until a moment that was fixed when it began to; then it takes any.
"""

import itertools
from collections.abc import Hashable, Mapping, Sequence, Set
from typing import Any, Generic, NamedTuple, TypeVar

from slotproxy.instances.errors import QueueFull
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.line import Line
from slotproxy.instances.slots.routing import ClaimPolicy, Policy, Seat, Wait, least_busy, without_overflow

M = TypeVar("M", bound=Hashable)
Ticket = int
NOBODY: frozenset[Hashable] = frozenset()
NO_CLAIM = Claim()
LOOKED_AT = 32  # tickets whose claims are weighed, at most, when a slot is free


class Grant(NamedTuple, Generic[M]):
    """`ticket` now holds one slot of `member`."""

    ticket: Ticket
    member: M
    turn: Any = None  # what `ClaimPolicy.begun` said


class _Waiting:
    """A ticket in the queue."""

    __slots__ = ("awaits", "claim", "exclude", "until")

    def __init__(self, claim: Claim, exclude: Set[Hashable]) -> None:
        self.claim = claim
        self.exclude = exclude
        self.awaits: Seat | None = None  # it holds out for this one
        self.until = float("inf")  # seconds on the monotonic clock; then no longer


class Pool(Generic[M]):
    """No member is granted more than its slots; nobody waits beside a slot it would take, unless it holds out.

    A member whose slots are made fewer keeps the leases it has: only new grants are held to the new number.
    """

    def __init__(
        self,
        queue_limit: int,
        policy: Policy = least_busy,
        *,
        claim_policy: ClaimPolicy | None = None,
    ) -> None:
        """`policy` decides where there is no claim, or no `claim_policy`."""
        self.claim_policy = claim_policy
        self.line = Line()
        self.reconfigure(queue_limit, policy)
        self._charged: set[Ticket] = set()  # those whose cost the line wants to know
        self._seats: dict[M, Seat] = {}
        self._overflow = False  # any seat is one: the others come first
        self._leases: dict[Ticket, Seat] = {}
        self._queue: dict[Ticket, _Waiting] = {}
        self._tickets = itertools.count(1)
        self.granted = 0  # leases so far

    def reconfigure(
        self,
        queue_limit: int,
        policy: Policy,
        per_client: int | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """From now on by these, see `Line`; who is queued already stays."""
        self.line.reconfigure(per_client=per_client, weights=weights)
        self.queue_limit = queue_limit
        self._policy = policy
        if self.claim_policy is not None:
            self.claim_policy.base = policy

    def decide_by(self, claim_policy: ClaimPolicy | None) -> None:
        """From now on it decides where there is a claim; None: nobody looks at claims."""
        self.claim_policy = claim_policy
        if claim_policy is not None:
            claim_policy.base = self._policy

    def __repr__(self) -> str:
        seats = ", ".join(f"{seat.member}={seat.leased}/{seat.slots}" for seat in self._seats.values())
        return f"<Pool {seats or 'empty'}, {len(self._queue)} queued>"

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether no slot is free and the queue is at its limit."""
        return len(self._queue) >= self.queue_limit and self._pick(NOBODY) is None

    @property
    def members(self) -> tuple[M, ...]:
        """Those that may be granted, in the order they were added."""
        return tuple(self._seats)

    @property
    def slots(self) -> int:
        """Offered by all members together."""
        return sum(seat.slots for seat in self._seats.values())

    def offers(self, exclude: Set[Hashable]) -> bool:
        """Whether a member that is not in `exclude` has slots, leased or not."""
        return any(seat.slots > 0 and seat.member not in exclude for seat in self._seats.values())

    @property
    def active(self) -> int:
        """Leases that are out."""
        return len(self._leases)

    def offered(self, member: M) -> int:
        """Slots of `member` that may be out at a time; 0: it is not granted."""
        seat = self._seats.get(member)
        return 0 if seat is None else seat.slots

    def leased(self, member: M) -> int:
        """Slots of `member` that are out, also after it was withdrawn."""
        seat = self._seats.get(member)
        if seat is not None:
            return seat.leased
        return sum(1 for held in self._leases.values() if held.member == member)

    def last_grant(self, member: M) -> int | None:
        """The number of the last lease on `member`, as `granted` counts them; None: it is not granted any longer."""
        seat = self._seats.get(member)
        return None if seat is None else seat.last_grant

    @property
    def has_free_slot(self) -> bool:
        """Whether any slot that is offered is not leased."""
        return any(seat.leased < seat.slots for seat in self._seats.values())

    def warm(self, member: M, tokens: int) -> None:
        """`member` holds so many tokens of a conversation that nobody else has."""
        seat = self._seats.get(member)
        if seat is not None:
            seat.warmth = tokens

    def take(self, exclude: Set[Hashable] = NOBODY) -> tuple[Ticket, M] | None:
        """A slot now, as a `Grant` says it, or None. Never overtakes a queued ticket."""
        if self._queue:
            return None
        if exclude or self._overflow:
            seat = self._pick(exclude)
            if seat is None:
                return None
            grant = self._grant(next(self._tickets), seat)
            return grant.ticket, grant.member
        seats = [seat for seat in self._seats.values() if seat.leased < seat.slots]
        if not seats:
            return None
        seat = seats[0] if len(seats) == 1 else self._policy(seats)
        ticket = next(self._tickets)
        self._leases[ticket] = seat
        seat.leased += 1
        self.granted = seat.last_grant = self.granted + 1
        return ticket, seat.member  # one for each request: a Grant costs ten times as much

    def take_for(self, claim: Claim, now: float, exclude: Set[Hashable] = NOBODY) -> Grant[M] | None:
        """The slot that is best for `claim`, now; None: there is none, or it is better to wait for it."""
        if self._queue:
            return None
        seat = self._choose(_Waiting(claim, exclude), now)
        if not isinstance(seat, Seat):
            return None
        ticket = next(self._tickets)
        self.line.passed(ticket, claim, now)
        self._charged.add(ticket)
        return self._grant(ticket, seat, claim, now)

    def set_aside(self, member: M) -> Ticket | None:
        """A free slot of `member` for something that is no request and counts as none; None: it has no free one."""
        seat = self._seats.get(member)
        if seat is None or not seat.free:
            return None
        ticket = next(self._tickets)
        self._leases[ticket] = seat
        seat.leased += 1
        return ticket

    def join(
        self, exclude: Set[Hashable] = NOBODY, claim: Claim = NO_CLAIM, now: float = 0.0
    ) -> tuple[Ticket, list[Grant[M]]]:
        """Stand in the queue for a slot of any member not in `exclude`.

        Raises QueueFull when no slot is free and the queue is at its limit, or ClientQueueFull when there are as many
        tickets of this client in it as may be.
        """
        full = len(self._queue) >= self.queue_limit
        if full and self._pick(exclude) is None:
            raise QueueFull
        ticket = next(self._tickets)
        self.line.join(ticket, claim, now)
        waiting = self._queue[ticket] = _Waiting(claim, exclude)
        if full:
            waiting.until = now
        return ticket, self._assign(now)

    def leave(self, ticket: Ticket, now: float = 0.0) -> list[Grant[M]]:
        """Return the slot, or give up waiting for one. Safe to call twice."""
        seat = self._leases.pop(ticket, None)
        if seat is not None:
            if ticket in self._charged:
                self._charged.discard(ticket)
                self.line.leave(ticket, now)
            seat.leased -= 1
            return self._assign(now) if self._queue else []
        waiting = self._queue.pop(ticket, None)
        if waiting is None:
            return []
        self.line.leave(ticket, now)
        _await(waiting, None)
        return self._assign(now)

    def release(self, ticket: Ticket) -> bool:
        """Return a slot that was taken without a claim; whether somebody waits, to whom `expire` may give it.

        Nothing happens the second time.
        """
        seat = self._leases.pop(ticket, None)
        if seat is None:
            return False
        seat.leased -= 1
        return len(self._queue) > 0

    def served(self, ticket: Ticket, tokens: float, now: float) -> None:
        """What a lease cost, see `principal.cost`."""
        self._charged.discard(ticket)
        self.line.served(ticket, tokens, now)

    def expire(self, now: float) -> list[Grant[M]]:
        """Who gets what is free: by now some may have held out for long enough, or have no reason to any more."""
        return self._assign(now) if self._queue else []

    @property
    def next_expiry(self) -> float | None:
        """When the next of those that hold out beside a free slot no longer does; None: nobody does."""
        if not self.has_free_slot:
            return None
        return min((one.until for one in self._queue.values() if one.awaits is not None), default=None)

    def add(self, member: M, slots: int = 1, *, overflow: bool = False, now: float = 0.0) -> list[Grant[M]]:
        """Offer `slots` of `member`; leases it already has count. `overflow`: only when no other member has a slot."""
        self._seats[member] = Seat(member, slots, overflow=overflow)
        self._overflow = self._overflow or overflow
        self._adopt(self._seats[member])
        return self._assign(now)

    def resize(self, member: M, slots: int, now: float = 0.0) -> list[Grant[M]]:
        """Offer so many slots of `member` from now on, 0 included; nothing happens when it is not offered at all."""
        seat = self._seats.get(member)
        if seat is None or seat.slots == slots:
            return []
        seat.slots = slots
        return self._assign(now) if self._queue else []

    def withdraw(self, member: M) -> int:
        """Grant no more slots of `member`; return how many leases are still out. `expire` lets those go elsewhere who
        held out for it.
        """
        seat = self._seats.pop(member, None)
        return self.leased(member) if seat is None else seat.leased

    def _adopt(self, seat: Seat) -> None:
        for ticket, held in self._leases.items():
            if held.member == seat.member:
                self._leases[ticket] = seat
                seat.leased += 1

    def _assign(self, now: float) -> list[Grant[M]]:
        grants: list[Grant[M]] = []
        holding_out: set[Ticket] = set()
        while self._queue and self.has_free_slot:
            grant = self._assign_one(now, holding_out)
            if grant is None:
                break
            grants.append(grant)
        return grants

    def _assign_one(self, now: float, holding_out: set[Ticket]) -> Grant[M] | None:
        """To the first in line that takes what is free; who holds out is not asked twice."""
        for ticket in self.line.order(now):
            if ticket in holding_out:
                continue
            waiting = self._queue[ticket]
            _await(waiting, None)  # or it would count itself among those that wait
            seat = self._choose(waiting, now) if len(holding_out) < LOOKED_AT else self._pick(waiting.exclude)
            if isinstance(seat, Seat):
                del self._queue[ticket]
                self.line.granted(ticket, now)
                self._charged.add(ticket)
                return self._grant(ticket, seat, waiting.claim, now)
            if isinstance(seat, Wait):
                _await(waiting, seat)
            holding_out.add(ticket)
        return None

    def _choose(self, waiting: _Waiting, now: float) -> Seat | Wait | None:
        """None: nothing is free that it may have."""
        policy = self.claim_policy
        if policy is None or not waiting.claim.says_what:
            return self._pick(waiting.exclude)
        may_wait = now < waiting.until
        seats = [
            seat
            for seat in self._seats.values()
            if seat.member not in waiting.exclude and seat.slots > 0 and (may_wait or seat.leased < seat.slots)
        ]
        return policy(seats, waiting.claim, now) if any(seat.leased < seat.slots for seat in seats) else None

    def _pick(self, exclude: Set[Hashable]) -> Seat | None:
        seats: Sequence[Seat] = [s for s in self._seats.values() if s.leased < s.slots and s.member not in exclude]
        if self._overflow:
            seats = without_overflow(seats)
        return self._policy(seats) if seats else None

    def _grant(self, ticket: Ticket, seat: Seat, claim: Claim = NO_CLAIM, now: float = 0.0) -> Grant[M]:
        turn = self.claim_policy.begun(seat, claim, now) if self.claim_policy and claim.says_what else None
        seat.leased += 1
        self.granted = seat.last_grant = self.granted + 1
        if turn is not None:
            turn.grant = self.granted
        self._leases[ticket] = seat
        return Grant(ticket, seat.member, turn)


def _await(waiting: _Waiting, wait: Wait | None) -> None:
    """From now on it holds out for that seat; None: for none."""
    if waiting.awaits is not None:
        waiting.awaits.awaited -= 1
    waiting.awaits = None if wait is None else wait.seat
    if wait is not None:
        wait.seat.awaited += 1
        waiting.until = min(waiting.until, wait.until)
