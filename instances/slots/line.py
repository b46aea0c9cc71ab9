"""The line before the slots: who is next, and who is before whom. Pure.

It is fair between principals, by start-time fair queueing: each has a level, the service it has attained by its weight,
and the one with the lowest is next. What has been attained counts half as much after every minute. A principal that had
nothing waiting does not begin below the level that the others have come to: it is owed nothing for the time in which it
asked for nothing. Within a principal it is first come, first served; with one principal that is all there is.

Whoever holds a slot is charged what it is expected to cost until `served` says what it did cost.
"""

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from slotproxy.instances.errors import ClientQueueFull
from slotproxy.instances.slots.claim import Claim, Priority
from slotproxy.instances.slots.levels import Levels
from slotproxy.instances.slots.principal import Principal, Tickets, Turn, expected_cost

PATIENCE = 120.0  # seconds after which a batch ticket counts as any other


class Ahead(NamedTuple):
    """What is served before a ticket: so many others, which are expected to cost so many tokens."""

    tickets: int
    tokens: float


class Line:
    """Tickets that wait, and what the principals of tickets have attained. `now`: seconds on the monotonic clock."""

    def __init__(self, *, per_client: int | None = None, weights: Mapping[str, float] | None = None) -> None:
        self._levels = Levels()
        self._foreground: dict[str, Principal] = {}  # those with tickets that are not of the batch
        self._background: dict[str, Principal] = {}  # those with tickets of the batch
        self._waiting: dict[int, Turn] = {}
        self._batch: Tickets = OrderedDict()  # of all principals: who has waited longest is first
        self._served: dict[int, Turn] = {}
        self._numbers = itertools.count()
        self.reconfigure(per_client=per_client, weights=weights)

    def reconfigure(self, *, per_client: int | None = None, weights: Mapping[str, float] | None = None) -> None:
        """From now on: how many tickets a principal may have waiting; weights, more than 0, of those whose is not 1.

        Who waits already stays.
        """
        self.per_client = per_client
        self._levels.weigh({} if weights is None else weights)

    def __repr__(self) -> str:
        names = ", ".join(f"{one.name}={one.waiting}+{one.leases}" for one in self._levels.known.values())
        return f"<Line of {len(self)}: {names or 'nobody'}>"

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._waiting

    @property
    def principals(self) -> Collection[str]:
        """Those that are remembered."""
        return self._levels.known.keys()

    # one ticket's way

    def join(self, ticket: int, claim: Claim, now: float) -> None:
        """Wait. Raises ClientQueueFull when its principal has as many tickets waiting as it may."""
        if self.per_client is not None:
            principal = self._levels.known.get(claim.principal)
            waiting = 0 if principal is None else principal.waiting
            if waiting >= self.per_client:
                raise ClientQueueFull(waiting)
        self._add(ticket, claim, now)

    def leave(self, ticket: int, now: float) -> bool:
        """It gave up: whether it was waiting. Safe twice.

        What it was granted and nobody has said the cost of is taken to have cost what was expected.
        """
        turn = self._waiting.get(ticket)
        if turn is not None:
            self._remove(turn)
            return True
        turn = self._served.get(ticket)
        if turn is not None:
            self.served(ticket, turn.tokens, now)
        return False

    def granted(self, ticket: int, now: float) -> None:
        """It has a slot, and waits no longer."""
        turn = self._served[ticket] = self._waiting[ticket]
        self._remove(turn)
        self._levels.charge(turn, self._unit(now))

    def passed(self, ticket: int, claim: Claim, now: float) -> None:
        """It has a slot without having waited."""
        unit = self._unit(now)
        principal = self._levels.of(claim.principal)
        if principal.is_idle:
            self._levels.begin(principal, self._foreground.values(), unit)
        turn = self._served[ticket] = self._turn(ticket, principal, claim, now)
        self._levels.charge(turn, unit)

    def served(self, ticket: int, tokens: float, now: float) -> None:
        """What a granted ticket cost (see `principal.cost`), as soon as it is known. Safe twice: the first counts."""
        turn = self._served.pop(ticket, None)
        if turn is not None:
            self._levels.settle(turn, tokens, self._unit(now))

    # the order

    def order(self, now: float) -> Iterator[int]:
        """Tickets, as they are to be served now.

        What has come out may be granted meanwhile; after another change the order has to be asked for anew.
        """
        unit = self._unit(now)
        while self._waiting:
            ticket = self._first(unit).ticket
            yield ticket
            if ticket in self._waiting:
                break
        foreseen = self._foreseen(unit)
        next(foreseen, None)
        for turn in foreseen:
            yield turn.ticket

    def ahead(self, ticket: int, now: float) -> Ahead:
        """What is served before a ticket that waits, if nobody else comes."""
        tokens = 0.0
        for position, turn in enumerate(self._foreseen(self._unit(now))):
            if turn.ticket == ticket:
                return Ahead(position, tokens)
            tokens += turn.tokens
        raise KeyError(ticket)

    def ahead_of_newcomer(self, claim: Claim, now: float) -> Ahead:
        """What would be served before a ticket that joined now, were there room for it."""
        nobody = -1  # a ticket that is not given to anybody
        self._unit(now)  # levels are of now
        known = self._levels.known.get(claim.principal)
        level = 0.0 if known is None else known.level
        self._add(nobody, claim, now)
        try:
            return self.ahead(nobody, now)
        finally:
            self._remove(self._waiting[nobody])
            if known is None:
                del self._levels.known[claim.principal]
            else:
                known.level = level

    def position(self, ticket: int, now: float) -> int:
        """How many are served before a ticket that waits."""
        return self.ahead(ticket, now).tickets

    def _first(self, unit: float) -> Turn:
        """Whose turn it is; somebody has to wait."""
        principals = self._foreground or self._background
        chosen: Turn | None = None
        lowest = 0.0
        for principal in principals.values():
            key = principal.level + unit * principal.in_flight
            if chosen is None or key <= lowest:
                first = principal.first or principal.first_of_batch
                if chosen is None or key < lowest or first.number < chosen.number:
                    chosen, lowest = first, key
        assert chosen is not None
        return chosen

    def _foreseen(self, unit: float) -> Iterator[Turn]:
        """All that wait, in the order in which they are served if every one costs what is expected."""
        foreground, background = self._foreground.values(), self._background.values()
        in_flight = {one.name: one.in_flight for one in (*foreground, *background)}
        batch = [[*one.batch.values()] for one in background]
        yield from _in_turn([[*one.foreground()] for one in foreground], in_flight, unit)
        yield from _in_turn(batch, in_flight, unit)

    # who waits

    def _unit(self, now: float) -> float:
        """As `Levels.unit`; whatever time has changed is up to date."""
        unit = self._levels.unit(now)
        if self._batch:
            self._promote(now, unit)
        return unit

    def _turn(self, ticket: int, principal: Principal, claim: Claim, now: float) -> Turn:
        tickets = principal.tickets(claim.priority)
        return Turn(ticket, next(self._numbers), principal, tickets, expected_cost(claim), now)

    def _add(self, ticket: int, claim: Claim, now: float) -> None:
        unit = self._unit(now)
        principal = self._levels.of(claim.principal)
        turn = self._waiting[ticket] = self._turn(ticket, principal, claim, now)
        if claim.priority is Priority.BATCH:
            self._batch[ticket] = turn
            if principal.is_idle:
                self._levels.begin(principal, self._background.values(), unit)
            self._background[principal.name] = principal
        else:
            self._step_forward(principal, unit)
        turn.tickets[ticket] = turn

    def _step_forward(self, principal: Principal, unit: float) -> None:
        """It has something waiting that is not of the batch. What batch tickets waited is no credit."""
        if principal.name not in self._foreground:
            self._levels.begin(principal, self._foreground.values(), unit)
            self._foreground[principal.name] = principal

    def _promote(self, now: float, unit: float) -> None:
        """Batch tickets that have waited long enough count as any others."""
        while self._batch:
            turn = next(iter(self._batch.values()))
            if now - turn.joined < PATIENCE:
                break
            principal = turn.principal
            self._step_forward(principal, unit)
            self._take_out(turn)
            turn.tickets = principal.promoted
            turn.tickets[turn.ticket] = turn

    def _remove(self, turn: Turn) -> None:
        principal = turn.principal
        del self._waiting[turn.ticket]
        self._take_out(turn)
        if not (principal.interactive or principal.promoted):
            self._foreground.pop(principal.name, None)

    def _take_out(self, turn: Turn) -> None:
        principal = turn.principal
        del turn.tickets[turn.ticket]
        if turn.tickets is principal.batch:
            del self._batch[turn.ticket]
            if not principal.batch:
                del self._background[principal.name]


def _in_turn(groups: Sequence[Sequence[Turn]], in_flight: dict[str, float], unit: float) -> Iterator[Turn]:
    """Each principal's own tickets in their order, and always that of the principal with the lowest key, which rises
    by what the ticket is expected to cost: reckoned as for tickets that are granted, for the same roundings.
    """

    def turn_at(index: int, own: Sequence[Turn]) -> tuple[float, int, int, Sequence[Turn]]:
        principal = own[index].principal
        return principal.level + unit * in_flight[principal.name], own[index].number, index, own

    turns = [turn_at(0, own) for own in groups]
    heapify(turns)
    while turns:
        _, _, index, own = turns[0]
        turn = own[index]
        yield turn
        in_flight[turn.principal.name] += turn.tokens / turn.principal.weight
        if index + 1 < len(own):
            heapreplace(turns, turn_at(index + 1, own))
        else:
            heappop(turns)
