"""A slot that is held, and who is told of what becomes of it.

A lease is released exactly once: `release` may be called again and does nothing then. A client that leaves while its
engine still computes calls `abandon`: the slot stays leased until the owner of the upstream has seen the engine idle.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from slotproxy.instances.errors import InstanceError
from slotproxy.instances.slots.pool import Grant, Ticket
from slotproxy.instances.slots.principal import cost
from slotproxy.instances.upstream import Field, Observer, Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a complete answer tells of the work it took; None: not known."""

    prompt: int | None  # tokens, as the engine counted them
    completion: int | None
    cached: int | None  # of the prompt
    prefill: float | None  # seconds from sending it to the first token
    total: float  # seconds from sending it to the end


class UpstreamOwner(Protocol):
    """Who is told what requests learn about upstreams. No method may block or raise."""

    async def prepare(self, lease: "KnownLease") -> None:
        """Do what is to be done to the engine before the request of `lease.turn` is sent. May be cancelled."""

    def answered(self, lease: "KnownLease", answered: Answered) -> None:
        """The request of `lease.turn` was answered; the owner releases the lease, at once or very soon."""

    def abandoned(self, lease: "Lease") -> None:
        """The request ended before its answer did; the owner releases the lease once the engine is idle."""

    def failed(self, upstream: Upstream, reason: str) -> None:
        """A request failed on `upstream`: it is dead, hung or sends no HTTP; `reason` is one of relay's error kinds."""

    def observer(self, upstream: Upstream) -> Observer:
        """Who is told of the answers of an upstream that is to be observed."""

    def why_no_slot_within(self, seconds: float) -> InstanceError | None:
        """Asked where no upstream offers a slot: why none will for so many seconds; None: one may."""


class Lender(Protocol):
    """Who gave a lease, and gets it back."""

    owner: UpstreamOwner

    def take_back(self, ticket: Ticket, upstream: Upstream) -> None:
        """A slot that was taken without a claim."""

    def take_back_known(self, ticket: Ticket, upstream: Upstream, turn: Any) -> None:
        """One of which it is known who asked."""

    def take_back_beside(self, upstream: Upstream) -> None:
        """A place beside the slots."""

    def served(self, ticket: Ticket, tokens: float) -> None:
        """What the request of a lease cost, see `principal.cost`."""


class Lease:
    """One held slot. Nobody learns anything from what becomes of it."""

    __slots__ = ("_leases", "streaming", "ticket", "upstream")

    holds_slot = True
    turn: Any = None  # of its conversation, as the claim policy sees it; None: it has none
    is_of_interest = False  # whether anybody learns from what becomes of it
    is_to_be_prepared = False  # whether `prepare` has anything to do

    def __init__(self, leases: Lender, ticket: Ticket, upstream: Upstream) -> None:
        self._leases: Lender | None = leases
        self.ticket = ticket
        self.upstream = upstream
        self.streaming = False  # said by the holder: how fast an engine notices a disconnect depends on it

    def release(self) -> None:
        leases = self._leases
        if leases is not None:
            self._leases = None
            leases.take_back(self.ticket, self.upstream)

    async def prepare(self) -> None:
        """Before the request is sent: let the engine have what was saved of its conversation."""

    def finish(self, answered: Answered) -> None:
        """The answer was complete: give the slot back, and let others learn from it."""
        self.release()

    def abandon(self) -> None:
        """Give the slot up while the engine may still work on the request: its owner releases it."""
        if self._leases is None:
            return
        self._leases.owner.abandoned(self)


class KnownLease(Lease):
    """One of which it is known who asks, and perhaps in which conversation."""

    __slots__ = ("_until", "turn")

    is_of_interest = True

    def __init__(self, leases: Lender, ticket: Ticket, upstream: Upstream, turn: Any = None) -> None:
        Lease.__init__(self, leases, ticket, upstream)
        self.turn = turn
        self._until: asyncio.Future[None] | None = None

    @property
    def is_to_be_prepared(self) -> bool:  # type: ignore[override]
        return self.turn is not None and self.turn.is_to_be_prepared

    def release(self) -> None:
        leases = self._leases
        if leases is None:
            return
        if self._until is not None and not self._until.done():
            self._until.add_done_callback(lambda _: self.release())
            return
        self._leases = None
        leases.take_back_known(self.ticket, self.upstream, self.turn)

    def hold_for(self, work: "asyncio.Future[None]") -> None:
        """Whoever releases it, it is not released before `work` is done."""
        self._until = work

    async def prepare(self) -> None:
        if self._leases is not None:
            await self._leases.owner.prepare(self)

    def finish(self, answered: Answered) -> None:
        leases = self._leases
        if leases is None:
            return
        if answered.prompt is not None:
            leases.served(self.ticket, cost(answered.prompt, answered.completion or 0, answered.cached or 0))
        if self.turn is None:
            self.release()
        else:
            leases.owner.answered(self, answered)


class QueuedLease(KnownLease):
    """A slot that was waited for."""

    __slots__ = ("position",)

    def __init__(self, leases: Lender, grant: Grant[Upstream], position: int) -> None:
        KnownLease.__init__(self, leases, grant.ticket, grant.member, grant.turn)
        self.position = position  # tickets that were ahead when the wait began


class SlotlessLease(Lease):
    """A place beside the slots of an engine."""

    __slots__ = ()

    holds_slot = False

    def release(self) -> None:
        leases = self._leases
        if leases is not None:
            self._leases = None
            leases.take_back_beside(self.upstream)

    def abandon(self) -> None:
        """Nobody gets a slot by it, so nobody has to wait until the engine is idle."""
        self.release()


def unobserved(status: int | None, fields: tuple[Field, ...], body: bytes) -> None:
    """Nobody wants to hear of the answers of an upstream."""
