"""What all requests on their way to engines share: slots, connections, deadlines. One per proxy."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from socket import socket
from typing import Any

from slotproxy.instances.errors import (
    ClientQueueFull,
    HeldBack,
    InstanceError,
    NoInstances,
    QueueFull,
    QueueTimeout,
    ShuttingDown,
)
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.lease import Lease, QueuedLease
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.line import Ahead
from slotproxy.instances.slots.pool import NO_CLAIM
from slotproxy.instances.slots.service_rate import ServiceRate
from slotproxy.instances.upstream import Upstream
from slotproxy.proxy import errors
from slotproxy.proxy.accounts.metrics import Metrics
from slotproxy.proxy.clients.claims import claim_of
from slotproxy.proxy.clients.connection import ClientConnection
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.engines.failure import Failure, Kind
from slotproxy.proxy.engines.idle import IdleConnections
from slotproxy.proxy.engines.relay import EngineConnection, connect, connect_over
from slotproxy.proxy.exchange.deadlines import Limits
from slotproxy.proxy.exchange.engine_request import Recipe
from slotproxy.proxy.exchange.exchange import Exchange
from slotproxy.proxy.exchange.gate import Gate
from slotproxy.proxy.exchange.own_answer import refusal_bytes

logger = logging.getLogger(__name__)

KNOWN_UPSTREAMS = 64  # whose recipes are kept: an engine that restarts is another upstream
PAGES = Upstream(instance="", host="slotproxy", port=80, keepalive=60.0, slots=1)
"""The proxy's own pages, which are reached as an engine is. `slots`: idle connections that are kept."""


class Forwarder:
    """Makes the exchanges, the handler of every client connection, and holds them to their deadlines."""

    def __init__(
        self,
        gate: Gate,
        leases: Leases,
        limits: Limits,
        metrics: Metrics,
        pages: Callable[[], Awaitable[socket]],
        *,
        strip_credentials: bool,
    ) -> None:
        """`pages` connects to the proxy's own pages."""
        self.gate = gate
        self.leases = leases
        self.metrics = metrics
        self.rate = ServiceRate()
        self.idle: IdleConnections[EngineConnection] = IdleConnections()
        self.pages = PAGES
        self._pages = pages
        self._tls = ssl.create_default_context()
        self.active: set[Exchange] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.reconfigure(limits, strip_credentials=strip_credentials)

    @property
    def in_flight(self) -> int:
        """Requests to engines that are being served or wait to be."""
        return sum(exchange.is_served and not exchange.is_page for exchange in self.active)

    def reconfigure(self, limits: Limits, *, strip_credentials: bool) -> None:
        """From now on by these, for the requests in flight, too."""
        self.limits = limits
        self._strip_credentials = strip_credentials
        self.recipes: dict[Upstream, Recipe] = {}

    # clients.connection.Handler

    def begin(self, head: RequestHead, client: ClientConnection) -> Exchange:
        exchange = Exchange(head, client, self)
        self.active.add(exchange)
        return exchange

    def malformed(self, client: ClientConnection, refusal: errors.Refusal) -> None:
        logger.debug("malformed request from %s: %s", client.peer, refusal.message)
        if client.transport is not None:
            client.transport.write(refusal_bytes(refusal, "", self.gate.request_id(None)))
        client.close()

    # for exchanges

    def recipe(self, upstream: Upstream) -> Recipe:
        recipe = self.recipes.get(upstream)
        if recipe is None:
            if len(self.recipes) >= KNOWN_UPSTREAMS:
                self.recipes.clear()
            strip = self._strip_credentials or upstream is PAGES
            observer = self.leases.owner.observer(upstream) if upstream.observed else None
            recipe = self.recipes[upstream] = Recipe(upstream, observer, strip_credentials=strip)
        return recipe

    def claim(self, head: RequestHead, body: bytes, peer: str) -> Claim:
        """What the request says of itself to whoever gives out slots."""
        return claim_of(head, body, self._principal(head, peer))

    def bare_claim(self, head: RequestHead, peer: str) -> Claim:
        """The same of one whose body does not matter."""
        return claim_of(head, b"", self._principal(head, peer))

    def _principal(self, head: RequestHead, peer: str) -> str:
        access = self.gate.access
        if not access.keys:
            return peer
        return access.principal(peer, head.text(b"authorization"), head.text(b"x-api-key"), head.text(b"api-key"))

    def at_once(self, request: RequestHead, tried: frozenset[Upstream], claim: Claim | None) -> Lease | None:
        """A slot that is free now, or a lease without one if `request` needs none. Raises Refusal."""
        try:
            return self.leases.at_once(request.method, request.path, tried, claim)
        except InstanceError as error:
            raise self.translated(error) from None

    async def wait(self, tried: frozenset[Upstream], claim: Claim) -> QueuedLease:
        """A slot, as soon as it is this request's turn. Raises Refusal."""
        try:
            return await self.leases.wait(self.limits.queue_timeout, tried, claim)
        except InstanceError as error:
            raise self.translated(error, claim) from None

    def check_queue(self, request: RequestHead, peer: str) -> None:
        """Raises Refusal if nobody could take the request, nor could it wait: before its body is read."""
        leases = self.leases
        if leases.is_full and not leases.answers_beside_slots(request.method, request.path):
            raise self.translated(QueueFull(), self.bare_claim(request, peer))

    async def connect(self, upstream: Upstream) -> EngineConnection:
        """A fresh connection. Raises OSError."""
        if upstream is PAGES:
            return await connect_over(await self._pages(), upstream, self.idle)
        return await connect(upstream, self.idle, self._tls)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of this forwarder's; an exchange that waits for something."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def others(self, tried: frozenset[Upstream], failure: Failure) -> bool:
        """Whether there is anybody else to try."""
        if failure.kind is Kind.LIMITED:  # the refusal is at hand: not worth a wait for one that is held back too
            return self.leases.offers(tried)
        return any(upstream not in tried for upstream in self.leases.upstreams)

    def translated(self, error: InstanceError, claim: Claim = NO_CLAIM) -> errors.Refusal:
        """What the supply side refuses a request with that has this claim, as clients are told it."""
        limits = self.limits
        if isinstance(error, QueueFull):
            return self._no_room(error, self.leases.ahead_of_newcomer(claim))
        if isinstance(error, QueueTimeout):
            self.metrics.queue_rejected("timeout")
            if not self.leases.upstreams:
                return errors.loading("the engines are still starting")
            wait = self._expected_wait(Ahead(error.tickets, error.tokens))
            return errors.queue_timeout(limits.queue_timeout, wait, error.tickets)
        if isinstance(error, HeldBack):
            return errors.held_back(str(error), error.seconds)
        if isinstance(error, ShuttingDown):
            return errors.shutting_down()
        if isinstance(error, NoInstances):
            return errors.no_instances(str(error))
        raise error  # there is no other

    def _no_room(self, error: QueueFull, ahead: Ahead) -> errors.Refusal:
        wait = self._expected_wait(ahead)
        if isinstance(error, ClientQueueFull):
            self.metrics.queue_rejected("client")
            return errors.client_queue_full(error.waiting, wait, ahead.tickets)
        self.metrics.queue_rejected("full")
        return errors.queue_full(self.limits.queue, wait, ahead.tickets)

    def _expected_wait(self, ahead: Ahead) -> float:
        return self.rate.wait(ahead, sum(upstream.slots for upstream in self.leases.upstreams))

    # deadlines

    def sweep(self, now: float) -> None:
        """Hold every active exchange to its deadlines. Called once a second, so that no event has to set a timer."""
        limits = self.limits
        for exchange in list(self.active):
            exchange.check_deadlines(now, limits)
            if limits.sse_ping is not None:
                exchange.ping(now, limits.sse_ping)
        self.idle.expire(now)

    def forgive(self, seconds: float) -> None:
        """Deadlines move by the time for which this process did not run."""
        for exchange in self.active:
            exchange.forgive(seconds)

    def break_off(self) -> None:
        """End every active exchange now: nobody waits for them any longer."""
        for exchange in list(self.active):
            exchange.break_off(Failure(Kind.SHUTDOWN, "the proxy is shutting down"))

    async def closed(self) -> None:
        """After `break_off`: return when no task is left."""
        self.idle.close()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
