"""Which of several upstreams with a free slot gets the next ticket. Pure functions of a snapshot."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Seat:
    """One member of the pool as routing sees it."""

    member: Any
    slots: int
    leased: int = 0
    last_grant: int = 0  # number of the grant that came here last; 0: never
    overflow: bool = False  # only for when no other has a free slot

    @property
    def free(self) -> bool:
        return self.leased < self.slots


Policy = Callable[[Sequence[Seat]], Seat]
"""Picks one of at least one seat, all of them free."""


def without_overflow(seats: Sequence[Seat]) -> Sequence[Seat]:
    """Those that are no overflow; all of them when there are no others."""
    return [seat for seat in seats if not seat.overflow] or seats


def least_busy(seats: Sequence[Seat]) -> Seat:
    """Fewest leased slots relative to its slots; among equals the one whose last grant is longest ago."""
    if len(seats) == 1:
        return seats[0]
    return min(seats, key=_busyness)


def round_robin(seats: Sequence[Seat]) -> Seat:
    """The one whose last grant is longest ago, however busy it is."""
    return min(seats, key=_age)


def at_random(seats: Sequence[Seat]) -> Seat:
    return random.choice(seats)


POLICIES: dict[str, Policy] = {"least-busy": least_busy, "round-robin": round_robin, "random": at_random}


def _busyness(seat: Seat) -> tuple[float, int]:
    return seat.leased / seat.slots, seat.last_grant


def _age(seat: Seat) -> int:
    return seat.last_grant
