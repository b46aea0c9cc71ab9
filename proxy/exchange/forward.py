"""One request: lease a slot, send it, relay the answer, hand the slot back, account for it.

lease = take or wait           QueueFull, QueueTimeout, HeldBack, NoInstances, ShuttingDown become refusals
connection = idle or fresh     refused: once more, on another upstream
answer.take(...)               stale: again on a fresh connection, the client does not notice
                               reset, malformed, empty, before the client saw a byte: once more, on another upstream
                               afterwards: error event, cut
                               an upstream's refusal (429, 503, 529): once more, on another that has slots for it, else
                               it is the client's
lease.release / abandon        exactly one of them, on every path; abandon where the engine may still be working
"""

import logging
import ssl
from dataclasses import dataclass
from functools import lru_cache, partial
from time import monotonic

from slotproxy.instances.errors import HeldBack, InstanceError, NoInstances, QueueFull, QueueTimeout, ShuttingDown
from slotproxy.instances.slots.leases import Lease, Leases
from slotproxy.instances.upstream import REFUSALS, Upstream
from slotproxy.proxy import errors
from slotproxy.proxy.accounts.metrics import Metrics
from slotproxy.proxy.accounts.outcome import Outcome
from slotproxy.proxy.clients import bodies
from slotproxy.proxy.clients.front import ClientConnection
from slotproxy.proxy.engines.idle import IdleConnections
from slotproxy.proxy.engines.observed import Refusal
from slotproxy.proxy.engines.relay import EngineConnection, connect
from slotproxy.proxy.engines.sink import Failure, Kind
from slotproxy.proxy.exchange.answer import Answer, Request, RequestHead
from slotproxy.proxy.headers import CREDENTIALS, NOT_TO_ENGINE, Dropped, nominated, request_lines

logger = logging.getLogger(__name__)

TRIES = 2  # upstreams one request may be sent to, before its client saw a byte
KNOWN_UPSTREAMS = 64  # for which the lines of one request's head are kept: an engine that restarts is another
_BLAMELESS = {Kind.SLOW_CLIENT, Kind.SHUTDOWN}
_TIMEOUTS = {Kind.PREFILL_TIMEOUT, Kind.STALL_TIMEOUT}
_UNAVAILABLE = {502, 503}  # the engine's own words for what a health check should look into
_UNSERVED = _UNAVAILABLE | REFUSALS
_COUNTED = {402: "refused", 429: "refused", 503: "unavailable", 529: "unavailable"}  # fields of the pool's Errors
_FINAL = _TIMEOUTS | _BLAMELESS  # not tried again on another upstream
_BODILESS = {"GET", "HEAD", "OPTIONS", "DELETE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, except the queue's length."""

    queue: int
    queue_timeout: float
    prefill_timeout: float
    stall_timeout: float


class ServiceRate:
    """How long a slot is held, as a moving average: what a refused client is told to wait."""

    def __init__(self) -> None:
        self._held = 5.0

    def observe(self, seconds: float) -> None:
        self._held += 0.1 * (seconds - self._held)

    def wait(self, queued: int, slots: int) -> float:
        """Seconds until the queue of now has been served."""
        return self._held * (queued + 1) / max(1, slots)


class Forwarder:
    """Takes requests to engines. One per proxy."""

    def __init__(self, leases: Leases, limits: Limits, metrics: Metrics, *, strip_credentials: bool) -> None:
        self._leases = leases
        self.reconfigure(limits, strip_credentials=strip_credentials)
        self._metrics = metrics
        self._rate = ServiceRate()
        self._tls = ssl.create_default_context()
        self._active: set[Answer] = set()
        self.idle: IdleConnections[EngineConnection] = IdleConnections()

    @property
    def in_flight(self) -> int:
        """Requests that are being served or wait to be."""
        return len(self._active)

    def reconfigure(self, limits: Limits, *, strip_credentials: bool) -> None:
        """From now on by these, for the requests in flight, too."""
        self._limits = limits
        self._credentials = CREDENTIALS if strip_credentials else frozenset()

    async def forward(self, request: Request, client: ClientConnection, outcome: Outcome) -> Answer:
        """Relay one request. Raises Refusal as long as nothing was written to the client."""
        answer = Answer(request, client)
        self._active.add(answer)
        try:
            await self._try_upstreams(request, answer, outcome)
        finally:
            self._active.discard(answer)
            _record(answer, outcome)
        return answer

    async def _try_upstreams(self, request: Request, answer: Answer, outcome: Outcome) -> None:
        tried: set[Upstream] = set()
        sent = False  # an engine had the prompt
        while True:
            try:
                lease = self._at_once(request.head.path, tried) or await self._wait(tried, outcome)
            except errors.Refusal:
                if answer.refusal is None:
                    raise
                _release(answer.refusal, answer, outcome)
                return
            lease.streaming = request.streaming
            outcome.instance = lease.upstream.instance
            failure = await self._exchange(lease, request, answer, outcome)
            if failure is None:
                return
            if failure.kind not in _BLAMELESS:
                self._metrics.upstream_failed(failure.kind.value)
            logger.warning("request %s: instance %s: %s", request.request_id, lease.upstream.instance, failure.text)
            tried.add(lease.upstream)
            sent = sent or failure.kind is not Kind.REFUSED
            refusal = _refusal(failure, sent=sent)
            if answer.begun:
                outcome.error = refusal.code
                answer.cut(refusal)
                return
            if failure.kind in _FINAL or len(tried) >= TRIES or not self._another(tried, failure):
                if answer.refusal is None or failure.kind in _FINAL:
                    raise refusal
                _release(answer.refusal, answer, outcome)
                return
            self._metrics.retried(failure.kind.value)

    def _at_once(self, path: str, tried: set[Upstream]) -> Lease | None:
        leases = self._leases
        try:
            return leases.slotless(path, tried) or leases.take(tried)
        except InstanceError as error:
            raise self._translated(error) from None

    async def _wait(self, tried: set[Upstream], outcome: Outcome) -> Lease:
        began = monotonic()
        outcome.queued = True
        try:
            lease = await self._leases.wait(self._limits.queue_timeout, tried)
        except InstanceError as error:
            raise self._translated(error) from None
        finally:
            outcome.queue_wait += monotonic() - began
        outcome.queued = False
        return lease

    def _translated(self, error: InstanceError) -> Exception:
        """What the supply side refuses with, as clients are told it."""
        limits = self._limits
        if isinstance(error, QueueFull):
            self._metrics.queue_rejected("full")
            return errors.queue_full(limits.queue, self._expected_wait())
        if isinstance(error, QueueTimeout):
            self._metrics.queue_rejected("timeout")
            if not self._leases.upstreams:
                return errors.loading("the engines are still starting")
            return errors.queue_timeout(limits.queue_timeout, self._expected_wait())
        if isinstance(error, HeldBack):
            return errors.held_back(str(error), error.seconds)
        if isinstance(error, ShuttingDown):
            return errors.shutting_down()
        return errors.no_instances(str(error)) if isinstance(error, NoInstances) else error

    async def _exchange(self, lease: Lease, request: Request, answer: Answer, outcome: Outcome) -> Failure | None:
        """One attempt on one upstream. Gives the slot back in every case."""
        upstream = lease.upstream
        hand_back = lease.release  # until the engine has the request
        began = monotonic()
        try:
            own = _own_fields(request, lease, outcome)
            payload = self._payload(request, upstream)
            connection = self.idle.take(upstream, began)
            while True:
                if connection is None:
                    try:
                        connection = await connect(upstream, self.idle, self._tls)
                    except OSError as error:
                        return Failure(Kind.REFUSED, f"it refused the connection ({error.strerror or 'timed out'})")
                hand_back = lease.abandon
                observer = partial(self._leases.owner.answered, upstream) if upstream.observed else None
                failure = await answer.take(connection, payload, own, observer)
                if failure is None or failure.kind is not Kind.STALE:
                    break
                self._metrics.retried(Kind.STALE.value)
                connection = None
            if failure is None:
                hand_back = lease.release
                if answer.status in _UNSERVED:
                    failure = self._unserved(upstream, answer)
            elif failure.kind not in _BLAMELESS:
                late = failure.kind in _TIMEOUTS
                self._leases.unserved("timeout" if late else "other")
                self._leases.owner.failed(upstream, "hang" if late else failure.kind.value)
            return failure
        finally:
            if answer.complete:
                hand_back = lease.release
            hand_back()
            self._rate.observe(monotonic() - began)

    def _unserved(self, upstream: Upstream, answer: Answer) -> Failure | None:
        """What to make of an answer that serves nobody; a Failure if the client has seen nothing of it."""
        self._leases.unserved(_COUNTED.get(answer.status, "other"))
        if answer.status in _UNAVAILABLE:
            self._leases.owner.failed(upstream, "unavailable")
        return None if answer.complete else Failure(Kind.LIMITED, f"it answered {answer.status}")

    def _payload(self, request: Request, upstream: Upstream) -> bytes:
        head, body = request.head, request.body
        lines = head.lines.get(upstream)
        if lines is None:
            if len(head.lines) >= KNOWN_UPSTREAMS:
                head.lines.clear()
            lines = head.lines[upstream] = self._lines(head, upstream)
        if upstream.model is not None:
            body = bodies.renamed(body, upstream.model)
        own = lines, request.request_id.encode()
        if not body and head.method in _BODILESS:
            return b"%bx-request-id: %b\r\n\r\n" % own
        return b"%bx-request-id: %b\r\nContent-Length: %d\r\n\r\n%b" % (*own, len(body), body)

    def _lines(self, head: RequestHead, upstream: Upstream) -> bytes:
        extra = upstream.extra_headers
        if upstream.default_headers:
            given = {name.lower() for name, _ in head.fields}
            extra = (*extra, *(field for field in upstream.default_headers if field[0] not in given))
        dropped = _dropped(upstream.drop_headers, upstream.extra_headers, self._credentials)
        if head.connection:
            dropped = Dropped(dropped.names | nominated(head.fields))
        target = upstream.base_path.encode() + head.target
        return request_lines(head.method, target, upstream.authority, head.fields, dropped, extra)

    def _another(self, tried: set[Upstream], failure: Failure) -> bool:
        if failure.kind is Kind.LIMITED:  # the refusal is at hand: not worth a wait for one that is held back too
            return self._leases.offers(tried)
        return any(upstream not in tried for upstream in self._leases.upstreams)

    def _expected_wait(self) -> float:
        return self._rate.wait(self._leases.queued, sum(upstream.slots for upstream in self._leases.upstreams))

    def sweep(self, now: float) -> None:
        """Hold every active exchange to its deadlines. Called once a second, so that no event has to set a timer."""
        limits = self._limits
        for answer in list(self._active):
            if answer.paused_since is not None:
                if now - answer.paused_since > limits.stall_timeout:
                    text = f"the client read nothing for {limits.stall_timeout:g} s"
                    answer.break_off(Failure(Kind.SLOW_CLIENT, text))
            elif not answer.first_byte and now - answer.heard > limits.prefill_timeout:
                text = f"no byte of an answer within {limits.prefill_timeout:g} s"
                answer.break_off(Failure(Kind.PREFILL_TIMEOUT, text))
            elif answer.first_byte and now - answer.heard > limits.stall_timeout:
                text = f"its stream was silent for {limits.stall_timeout:g} s"
                answer.break_off(Failure(Kind.STALL_TIMEOUT, text))
            elif answer.says_nothing(now, limits.prefill_timeout):
                text = f"its stream said nothing but comments for {limits.prefill_timeout:g} s"
                answer.break_off(Failure(Kind.STALL_TIMEOUT, text))
        self.idle.expire(now)

    def forgive(self, seconds: float) -> None:
        """Deadlines move by the time for which this process did not run."""
        for answer in self._active:
            answer.forgive(seconds)

    def break_off(self) -> None:
        """End every active exchange now: nobody waits for them any longer."""
        for answer in list(self._active):
            answer.break_off(Failure(Kind.SHUTDOWN, "the proxy is shutting down"))


@lru_cache(maxsize=64)
def _dropped(
    by_engine: frozenset[bytes], extra: tuple[tuple[bytes, bytes], ...], credentials: frozenset[bytes]
) -> Dropped:
    """The client's fields that do not go to an engine."""
    return Dropped(NOT_TO_ENGINE | by_engine | credentials | {name.lower() for name, _ in extra})


def _release(refusal: Refusal, answer: Answer, outcome: Outcome) -> None:
    outcome.instance = refusal.instance
    answer.release(refusal)


def _record(answer: Answer, outcome: Outcome) -> None:
    if answer.begun:
        outcome.status = answer.status
    outcome.first_token, outcome.last_byte, outcome.size = answer.first_token, answer.last_byte, answer.size
    if answer.meter is not None:
        outcome.usage = answer.meter.usage()


def _own_fields(request: Request, lease: Lease, outcome: Outcome) -> bytes:
    return b"x-request-id: %b\r\nx-slotproxy-instance: %b\r\nx-slotproxy-queue-ms: %d\r\n" % (
        request.request_id.encode(),
        lease.upstream.instance.encode(),
        round(outcome.queue_wait * 1000),
    )


def _refusal(failure: Failure, *, sent: bool) -> errors.Refusal:
    if failure.kind is Kind.SHUTDOWN:
        return errors.shutting_down()
    if failure.kind in _TIMEOUTS:
        return errors.upstream_timeout(failure.text)
    return errors.upstream_failed(failure.text, sent=sent)
