"""Who waits for a slot, and whose turn it is. Pure."""

from collections.abc import Iterator

from slotproxy.instances.slots.claim import Claim


class Line:
    """First come, first served."""

    def __init__(self) -> None:
        self._tickets: dict[int, Claim] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def join(self, ticket: int, claim: Claim, now: float) -> None:
        self._tickets[ticket] = claim

    def leave(self, ticket: int, now: float) -> bool:
        return self._tickets.pop(ticket, None) is not None

    def granted(self, ticket: int, now: float) -> None:
        del self._tickets[ticket]

    def order(self, now: float) -> Iterator[int]:
        return iter(self._tickets)
