"""One of those whom the line is fair to: what it has attained, and its tickets that wait. Pure.

Levels are tokens of service divided by the principal's weight, in the units of the line, which makes what is attained
later count for more: that is how what was attained earlier decays.
"""

from collections import OrderedDict
from collections.abc import Iterator
from heapq import merge
from itertools import chain

from slotproxy.instances.slots.claim import Claim, Priority

EXPECTED_ANSWER = 256  # completion tokens of a request that is not served yet
LEAST_COST = 1.0  # tokens; what costs nothing could be asked for ever before everybody else


def cost(prompt: int, completion: int, cached: int = 0) -> float:
    """Tokens of service that a request took. Those of the answer count twice: each is a step of its own."""
    return max(LEAST_COST, prompt - cached + 2.0 * completion)


USUAL_COST = cost(0, EXPECTED_ANSWER)


def expected_cost(claim: Claim) -> float:
    """The same of a request before it is served, with nothing cached."""
    return claim.expected_prefill + USUAL_COST


class Turn:
    """A ticket on its way: it waits in the line, then it holds a slot."""

    __slots__ = ("charge", "joined", "number", "principal", "ticket", "tickets", "tokens")

    def __init__(
        self, ticket: int, number: int, principal: "Principal", tickets: "Tickets", tokens: float, joined: float
    ) -> None:
        self.ticket = ticket
        self.number = number  # rises with every ticket
        self.principal = principal
        self.tickets = tickets  # those of its principal that it waits among
        self.tokens = tokens  # what it is expected to cost
        self.joined = joined
        self.charge = 0.0  # once it holds a slot: tokens by the weight of that moment


Tickets = OrderedDict[int, Turn]  # a dict finds its first slowly when many before it have gone


class Principal:
    """`level`: what it has attained; `in_flight`: what its leases are expected to come to, as of now."""

    __slots__ = ("batch", "in_flight", "interactive", "leases", "level", "name", "promoted", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.level = 0.0
        self.in_flight = 0.0  # tokens by weight
        self.leases = 0
        self.interactive: Tickets = OrderedDict()
        self.promoted: Tickets = OrderedDict()  # batch tickets that have waited long enough
        self.batch: Tickets = OrderedDict()

    @property
    def waiting(self) -> int:
        return len(self.interactive) + len(self.promoted) + len(self.batch)

    @property
    def is_idle(self) -> bool:
        return not (self.interactive or self.promoted or self.batch)

    def tickets(self, priority: Priority) -> Tickets:
        """Where a ticket of `priority` waits."""
        return self.interactive if priority is Priority.INTERACTIVE else self.batch

    @property
    def first(self) -> Turn | None:
        """Whose turn it is when it is this principal's; None: nobody but batch tickets waits."""
        if not self.promoted:
            return next(iter(self.interactive.values()), None)
        promoted = next(iter(self.promoted.values()))
        interactive = next(iter(self.interactive.values()), promoted)
        return promoted if promoted.number < interactive.number else interactive

    @property
    def first_of_batch(self) -> Turn:
        """There has to be one."""
        return next(iter(self.batch.values()))

    def foreground(self) -> Iterator[Turn]:
        """All but batch tickets, by the time of joining."""
        if not self.promoted:
            return chain(self.interactive.values())
        return merge(self.interactive.values(), self.promoted.values(), key=_number)

    def end(self, charge: float) -> None:
        """The lease that `charge` was for is over."""
        self.leases -= 1
        self.in_flight = self.in_flight - charge if self.leases else 0.0  # sums of floats leave a rest


def _number(turn: Turn) -> int:
    return turn.number
