"""Waiting for a slot: the asyncio shell around the pool.

What an engine answers beside its slots (`beside`) gets a lease that holds none: a restart waits for it as for others.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from time import monotonic
from typing import Any

from slotproxy.instances.errors import InstanceError, QueueTimeout
from slotproxy.instances.slots.beside import Beside
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.lease import (
    Answered,
    KnownLease,
    Lease,
    QueuedLease,
    SlotlessLease,
    UpstreamOwner,
    unobserved,
)
from slotproxy.instances.slots.line import Ahead
from slotproxy.instances.slots.pool import NO_CLAIM, NOBODY, Grant, Pool, Ticket
from slotproxy.instances.slots.routing import ClaimPolicy, Policy
from slotproxy.instances.slots.service_rate import like_any
from slotproxy.instances.snapshot import Errors, PoolStatistics
from slotproxy.instances.upstream import Observer, Upstream

FORESEEN = 256  # tickets whose order is reckoned when one of them asks for its place: 2 us for each


class _Unowned:
    async def prepare(self, lease: KnownLease) -> None:
        pass

    def answered(self, lease: KnownLease, answered: Answered) -> None:
        lease.release()

    def abandoned(self, lease: Lease) -> None:
        lease.release()

    def failed(self, upstream: Upstream, reason: str) -> None:
        pass

    def observer(self, upstream: Upstream) -> Observer:
        return unobserved

    def why_no_slot_within(self, seconds: float) -> InstanceError | None:
        return None


class Leases:
    """The one queue and every slot behind it."""

    def __init__(self, pool: Pool[Upstream]) -> None:
        self._pool = pool
        self._waiting: dict[Ticket, asyncio.Future[Grant[Upstream]]] = {}
        self._drained: dict[Upstream, asyncio.Event] = {}
        self._beside = Beside()
        self._refusal: Callable[[], InstanceError] | None = None
        self._waited = 0.0  # seconds, by all that got a slot
        self._alarm: asyncio.TimerHandle | None = None  # when the next that holds out for a slot takes any
        self.has_choice = False  # whether it matters what a request is about
        self._keeps_conversations = False  # what was computed of one can be had although its engine has it no more
        self._errors: Counter[str] = Counter()
        self.owner: UpstreamOwner = _Unowned()

    @property
    def queued(self) -> int:
        return self._pool.queued

    @property
    def queue_limit(self) -> int:
        return self._pool.queue_limit

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        return self._pool.members

    @property
    def has_free_slot(self) -> bool:
        """Whether any slot that is offered is not leased."""
        return self._pool.has_free_slot

    def offers(self, exclude: Set[Hashable] = NOBODY) -> bool:
        """Whether an upstream that is not in `exclude` has slots at all, leased or not."""
        return self._pool.offers(exclude)

    @property
    def refusing(self) -> bool:
        """Whether every request is refused, as it is while everything is being stopped."""
        return self._refusal is not None

    @property
    def is_full(self) -> bool:
        """Whether whoever comes next would neither get a slot nor a place in the queue."""
        return self._refusal is None and self._pool.is_full

    def answers_beside_slots(self, method: str, path: str) -> bool:
        """Whether somebody answers such a request without a slot, and has room for it now."""
        beside = self._beside
        return beside.concerns(method, path) and beside.pick(method, path, NOBODY, self.offered) is not None

    @property
    def granted(self) -> int:
        """Leases so far."""
        return self._pool.granted

    def offered(self, upstream: Upstream) -> int:
        """Slots of `upstream` that may be leased now, those that are included; 0: it is not offered."""
        return self._pool.offered(upstream)

    def leased(self, upstream: Upstream) -> int:
        return self._pool.leased(upstream)

    def last_grant(self, upstream: Upstream) -> int | None:
        """The number of the last lease on `upstream`; None: it is not leased any longer."""
        return self._pool.last_grant(upstream)

    def take(self, exclude: Set[Hashable] = NOBODY) -> Lease | None:
        """A slot at once, or None. Raises the refusal in force."""
        if self._refusal is not None:
            raise self._refusal()
        grant = self._pool.take(exclude)
        if grant is None:
            return None
        ticket, upstream = grant
        return Lease(self, ticket, upstream)

    def at_once(
        self, method: str, path: str, exclude: Set[Hashable] = NOBODY, claim: Claim | None = None
    ) -> Lease | None:
        """What a request for `path` needs, if it is to be had without waiting. Raises the refusal in force."""
        if self._refusal is not None:
            raise self._refusal()
        beside = (
            self._beside
        )  # of nearly every request, which is a POST, a look into a set tells that it is none of these
        if (method != "POST" or beside.posted is None or path in beside.posted) and beside.concerns(method, path):
            upstream = beside.pick(method, path, exclude, self.offered)
            if upstream is not None:
                beside.take(upstream)
                return SlotlessLease(self, 0, upstream)
        if claim is not None:
            granted = self._pool.take_for(claim, monotonic(), exclude)
            return None if granted is None else KnownLease(self, *granted)
        grant = self._pool.take(exclude)
        if grant is None:
            return None
        ticket, upstream = grant
        return Lease(self, ticket, upstream)

    def set_aside(self, upstream: Upstream) -> KnownLease | None:
        """The slot of an engine that nobody wants now, for something that is no request; None: somebody does."""
        pool = self._pool
        if self._refusal is not None or pool.queued or pool.leased(upstream):
            return None
        ticket = pool.set_aside(upstream)
        return None if ticket is None else KnownLease(self, ticket, upstream)

    async def wait(self, timeout: float, exclude: Set[Hashable] = NOBODY, claim: Claim = NO_CLAIM) -> QueuedLease:
        """A slot within `timeout` seconds. Raises QueueFull, QueueTimeout, HeldBack or the refusal in force."""
        if self._refusal is not None:
            raise self._refusal()
        if not self._pool.offers(exclude) and (error := self.owner.why_no_slot_within(timeout)) is not None:
            raise error
        loop = asyncio.get_running_loop()
        began = monotonic()
        ticket, grants = self._pool.join(exclude, claim, began)
        granted = self._waiting[ticket] = loop.create_future()
        position = self._ahead(ticket).tickets
        self._deliver(grants)
        try:
            async with asyncio.timeout(timeout):
                grant = await granted
        except BaseException as error:
            ahead = self._ahead(ticket) if isinstance(error, TimeoutError) else None
            # Whatever ended the wait, a grant may have met it in the same tick: leaving returns that slot too.
            self._give_up(ticket, granted)
            if ahead is not None:
                self._errors["timeout"] += 1
                raise QueueTimeout(*ahead) from None
            raise
        finally:
            del self._waiting[ticket]
        self._waited += monotonic() - began
        return QueuedLease(self, grant, position)

    def ahead_of_newcomer(self, claim: Claim) -> Ahead:
        """What would be served before a request that joined the queue now; with many in it: all of them."""
        queued = self._pool.queued
        return like_any(queued) if queued > FORESEEN else self._pool.line.ahead_of_newcomer(claim, monotonic())

    def _ahead(self, ticket: Ticket) -> Ahead:
        """The same of a ticket that waits. Nothing is ahead of one that was granted."""
        line = self._pool.line
        if ticket not in line:
            return like_any(0)
        return like_any(len(line) - 1) if len(line) > FORESEEN else line.ahead(ticket, monotonic())

    def _give_up(self, ticket: Ticket, granted: "asyncio.Future[Grant[Upstream]]") -> None:
        policy = self._pool.claim_policy
        if policy is not None and granted.done() and not granted.cancelled() and granted.exception() is None:
            turn = granted.result().turn
            if turn is not None:
                policy.failed(turn)
        self._deliver(self._pool.leave(ticket, monotonic()))

    def unserved(self, kind: str) -> None:
        """Count a request that an upstream did not serve; `kind` is a field of Errors."""
        self._errors[kind] += 1

    @property
    def statistics(self) -> PoolStatistics:
        pool = self._pool
        return PoolStatistics(
            concurrency_limit=pool.slots,
            active=pool.active,
            queued=pool.queued,
            requests=pool.granted,
            errors=Errors.of(self._errors),
            average_wait=self._waited / pool.granted if pool.granted else 0.0,
        )

    def add(self, upstream: Upstream, slots: int | None = None) -> None:
        """Offer the slots of `upstream`, or only so many of them."""
        offered = upstream.slots if slots is None else slots
        self._deliver(self._pool.add(upstream, offered, overflow=upstream.overflow, now=monotonic()))
        self._beside.offer(upstream)
        self._weigh()

    def resize(self, upstream: Upstream, slots: int) -> None:
        """Offer so many slots of `upstream` from now on, if it is offered at all. Leases that are out stay out."""
        self._deliver(self._pool.resize(upstream, slots, monotonic()))

    def withdraw(self, upstream: Upstream) -> int:
        """Lease `upstream` no more; return how many leases are still out."""
        leased = self._pool.withdraw(upstream)
        self._beside.withdraw(upstream)
        self._weigh()
        if self._pool.queued:
            self._deliver(self._pool.expire(monotonic()))
        return leased + self._beside.out(upstream)

    async def drained(self, upstream: Upstream) -> None:
        """Return once no lease on `upstream` is out. Withdraw it first."""
        while self._pool.leased(upstream) or self._beside.out(upstream):
            await self._drained.setdefault(upstream, asyncio.Event()).wait()

    def reconfigure(
        self,
        queue_limit: int,
        policy: Policy,
        per_client: int | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """From now on by these; requests that wait already go on waiting."""
        self._pool.reconfigure(queue_limit, policy, per_client, weights)

    def decide_by(self, policy: ClaimPolicy | None) -> None:
        """Who decides from now on for requests that say what they are about; None: it does not matter what they say."""
        self._pool.decide_by(policy)
        self._weigh()

    def keep_conversations(self) -> None:
        """From now on what an engine has computed can be had again although it has it no more."""
        self._keeps_conversations = True
        self._weigh()

    def _weigh(self) -> None:
        pool = self._pool
        self.has_choice = pool.claim_policy is not None and (self._keeps_conversations or len(pool.members) != 1)

    def refuse(self, refusal: Callable[[], InstanceError]) -> None:
        """Until `accept`, every queued and every new request gets what `refusal` makes (a new one each: they are
        raised).
        """
        self._refusal = refusal
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(refusal())

    def accept(self) -> None:
        self._refusal = None

    def served(self, ticket: Ticket, tokens: float) -> None:
        """What the request of a lease cost, see `principal.cost`."""
        self._pool.served(ticket, tokens, monotonic())

    def warm(self, upstream: Upstream, tokens: int) -> None:
        """`upstream` holds so many tokens of a conversation that nobody else has."""
        self._pool.warm(upstream, tokens)

    def take_back(self, ticket: Ticket, upstream: Upstream) -> None:
        if self._pool.release(ticket):
            self._deliver(self._pool.expire(monotonic()))
        if self._drained:
            self._tell_if_drained(upstream)

    def take_back_known(self, ticket: Ticket, upstream: Upstream, turn: Any) -> None:
        pool = self._pool
        if turn is not None and pool.claim_policy is not None:
            pool.claim_policy.failed(turn)  # unless more was learned of it
        self._deliver(pool.leave(ticket, monotonic()))
        if self._drained:
            self._tell_if_drained(upstream)

    def _tell_if_drained(self, upstream: Upstream) -> None:
        if not self._pool.leased(upstream) and (event := self._drained.pop(upstream, None)) is not None:
            event.set()

    def take_back_beside(self, upstream: Upstream) -> None:
        if self._beside.leave(upstream) and (event := self._drained.pop(upstream, None)) is not None:
            event.set()  # `drained` looks whether a slot is out

    def _deliver(self, grants: Iterable[Grant[Upstream]]) -> None:
        for grant in grants:
            waiter = self._waiting[grant.ticket]
            if not waiter.done():  # cancelled in this tick: its own `leave` returns the slot
                waiter.set_result(grant)
        self._set_alarm()

    def _set_alarm(self) -> None:
        """For the next ticket that holds out for a slot which is not free."""
        due = self._pool.next_expiry if self._pool.queued else None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if due is not None:
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, due - monotonic()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._deliver(self._pool.expire(monotonic()))
