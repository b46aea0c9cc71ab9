"""Which of several upstreams with a free slot gets the next ticket. Pure functions of a snapshot."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from slotproxy.instances.slots.claim import Claim


@dataclass(slots=True)
class Seat:
    """One member of the pool as routing sees it."""

    member: Any
    slots: int
    leased: int = 0
    last_grant: int = 0  # number of the grant that came here last; 0: never
    overflow: bool = False  # only for when no other has a free slot
    warmth: int = 0  # tokens of a conversation that would be lost if another took its place
    awaited: int = 0  # tickets that wait for a slot here although others are free

    @property
    def free(self) -> bool:
        return self.leased < self.slots


class Wait(NamedTuple):
    """The answer of a policy that would rather have a slot that is taken."""

    seat: Seat
    until: float  # seconds on the monotonic clock; then any free slot is better


Policy = Callable[[Sequence[Seat]], Seat]
"""Picks one of at least one seat, all of them free."""


class ClaimPolicy(Protocol):
    """What decides for requests that say what they are about."""

    base: Policy  # what it decides by where that makes no difference

    def __call__(self, seats: Sequence[Seat], claim: Claim, now: float) -> Seat | Wait:
        """One of the free seats among `seats`, of which one is free at least; or that it is better to wait for one that
        is not free, and how long at most. `now`: seconds on the monotonic clock.
        """

    def begun(self, seat: Seat, claim: Claim, now: float) -> Any:
        """Called where the claim gets a slot, before the seat says so; what whoever holds the slot is to know."""

    def failed(self, turn: Any) -> None:
        """The slot is given back, and nobody knows what became of what was `begun`. Does nothing once it has ended."""


def without_overflow(seats: Sequence[Seat]) -> Sequence[Seat]:
    """Those that are no overflow; all of them when there are no others."""
    return [seat for seat in seats if not seat.overflow] or seats


def least_busy(seats: Sequence[Seat]) -> Seat:
    """Fewest leased slots relative to its slots; among equals the coldest, then the one granted longest ago."""
    if len(seats) == 1:
        return seats[0]
    return min(seats, key=busyness)


def round_robin(seats: Sequence[Seat]) -> Seat:
    """The one whose last grant is longest ago, however busy it is."""
    return min(seats, key=_age)


def at_random(seats: Sequence[Seat]) -> Seat:
    return random.choice(seats)


POLICIES: dict[str, Policy] = {"least-busy": least_busy, "round-robin": round_robin, "random": at_random}


def busyness(seat: Seat) -> tuple[float, int, int]:
    """The smaller, the sooner it is its turn."""
    return seat.leased / seat.slots, seat.warmth, seat.last_grant


def _age(seat: Seat) -> int:
    return seat.last_grant
