"""Slots, the queue before them and the leases on them. Pure: callers do the waiting.

State is three mappings: seats (who offers how many slots), leases (ticket to seat) and the queue (ticket to the
members it will not take). Every method that can free or add a slot returns the grants that follow from it.
"""

import itertools
from collections.abc import Hashable, Sequence, Set
from typing import Generic, NamedTuple, TypeVar

from slotproxy.instances.errors import QueueFull
from slotproxy.instances.slots.routing import Policy, Seat, least_busy, without_overflow

M = TypeVar("M", bound=Hashable)
Ticket = int
NOBODY: frozenset[Hashable] = frozenset()


class Grant(NamedTuple, Generic[M]):
    """`ticket` now holds one slot of `member`."""

    ticket: Ticket
    member: M


class Pool(Generic[M]):
    """No member is granted more than its slots; first come, first served; nobody waits beside a slot it would take.

    A member whose slots are made fewer keeps the leases it has: only new grants are held to the new number.
    """

    def __init__(self, queue_limit: int, policy: Policy = least_busy) -> None:
        self.reconfigure(queue_limit, policy)
        self._seats: dict[M, Seat] = {}
        self._overflow = False  # any seat is one: the others come first
        self._leases: dict[Ticket, Seat] = {}
        self._queue: dict[Ticket, Set[Hashable]] = {}
        self._tickets = itertools.count(1)
        self.granted = 0  # leases so far

    def reconfigure(self, queue_limit: int, policy: Policy) -> None:
        """From now on by these; who is queued already stays."""
        self.queue_limit = queue_limit
        self._policy = policy

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

    def take(self, exclude: Set[Hashable] = NOBODY) -> tuple[Ticket, M] | None:
        """A slot now, as a `Grant` says it, or None. Never overtakes a queued ticket."""
        if self._queue:
            return None
        if exclude or self._overflow:
            seat = self._pick(exclude)
            return None if seat is None else self._grant(next(self._tickets), seat)
        seats = [seat for seat in self._seats.values() if seat.leased < seat.slots]
        if not seats:
            return None
        seat = seats[0] if len(seats) == 1 else self._policy(seats)
        ticket = next(self._tickets)
        self._leases[ticket] = seat
        seat.leased += 1
        self.granted = seat.last_grant = self.granted + 1
        return ticket, seat.member  # one for each request: a Grant costs ten times as much

    def join(self, exclude: Set[Hashable] = NOBODY) -> tuple[Ticket, list[Grant[M]]]:
        """Stand in the queue for a slot of any member not in `exclude`.

        Raises QueueFull when no slot is free and the queue is at its limit.
        """
        if len(self._queue) >= self.queue_limit and self._pick(exclude) is None:
            raise QueueFull
        ticket = next(self._tickets)
        self._queue[ticket] = exclude
        return ticket, self._assign()

    def leave(self, ticket: Ticket) -> list[Grant[M]]:
        """Return the slot, or give up waiting for one. Safe to call twice."""
        seat = self._leases.pop(ticket, None)
        if seat is not None:
            seat.leased -= 1
            return self._assign() if self._queue else []
        return [] if self._queue.pop(ticket, None) is None else self._assign()

    def add(self, member: M, slots: int = 1, *, overflow: bool = False) -> list[Grant[M]]:
        """Offer `slots` of `member`; leases it already has count. `overflow`: only when no other member has a slot."""
        self._seats[member] = Seat(member, slots, overflow=overflow)
        self._overflow = self._overflow or overflow
        self._adopt(self._seats[member])
        return self._assign()

    def resize(self, member: M, slots: int) -> list[Grant[M]]:
        """Offer so many slots of `member` from now on, 0 included; nothing happens when it is not offered at all."""
        seat = self._seats.get(member)
        if seat is None or seat.slots == slots:
            return []
        seat.slots = slots
        return self._assign() if self._queue else []

    def withdraw(self, member: M) -> int:
        """Grant no more slots of `member`; return how many leases are still out."""
        seat = self._seats.pop(member, None)
        return self.leased(member) if seat is None else seat.leased

    def _adopt(self, seat: Seat) -> None:
        for ticket, held in self._leases.items():
            if held.member == seat.member:
                self._leases[ticket] = seat
                seat.leased += 1

    def _assign(self) -> list[Grant[M]]:
        grants: list[Grant[M]] = []
        for ticket, exclude in list(self._queue.items()):
            seat = self._pick(exclude)
            if seat is not None:
                del self._queue[ticket]
                grants.append(self._grant(ticket, seat))
            elif not exclude:
                break  # this one takes any slot, so there is none for those behind it either
        return grants

    def _pick(self, exclude: Set[Hashable]) -> Seat | None:
        seats: Sequence[Seat] = [s for s in self._seats.values() if s.leased < s.slots and s.member not in exclude]
        if self._overflow:
            seats = without_overflow(seats)
        return self._policy(seats) if seats else None

    def _grant(self, ticket: Ticket, seat: Seat) -> Grant[M]:
        seat.leased += 1
        self.granted = seat.last_grant = self.granted + 1
        self._leases[ticket] = seat
        return Grant(ticket, seat.member)
