"""One request: lease a slot, send it, relay the answer, hand the slot back, account for it.

    admit        the gate's rules; what is refused here is refused before its body is read
    serve        a free slot and an idle connection: sent at once, from the callback that brought its last byte
    _fetch       else a task waits for the slot, or connects
    attempt_over stale: again on a fresh connection, the client does not notice
                 refused, reset, malformed, empty, before the client saw a byte: once more, on another upstream
                 afterwards: error event, cut
                 an upstream's refusal (429, 503, 529): once more, on another that has slots for it, else it is the
                 client's
    lease        released or abandoned, exactly one of them, on every path: abandoned where the engine may be working
"""

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from slotproxy.instances.remotes.ratelimits import REFUSALS
from slotproxy.instances.slots.leases import Lease
from slotproxy.instances.upstream import Upstream
from slotproxy.proxy import errors
from slotproxy.proxy.accounts.logs import log_access
from slotproxy.proxy.accounts.outcome import Outcome
from slotproxy.proxy.clients import bodies
from slotproxy.proxy.clients.connection import CONTINUE, ClientConnection
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.engines.relay import EngineConnection
from slotproxy.proxy.engines.sink import Failure, Kind
from slotproxy.proxy.exchange.answer import Answer
from slotproxy.proxy.exchange.gate import Way
from slotproxy.proxy.exchange.own_answer import empty_bytes, refusal_bytes
from slotproxy.proxy.operator.paths import API

if TYPE_CHECKING:
    from slotproxy.proxy.exchange.forward import Forwarder, Limits

logger = logging.getLogger(__name__)

TRIES = 2  # upstreams one request may be sent to, before its client saw a byte
_BLAMELESS = frozenset({Kind.SLOW_CLIENT, Kind.SHUTDOWN})
_TIMEOUTS = frozenset({Kind.PREFILL_TIMEOUT, Kind.STALL_TIMEOUT})
_UNAVAILABLE = frozenset({502, 503})  # the engine's own words for what a health check should look into
_UNSERVED = _UNAVAILABLE | REFUSALS
_COUNTED = {402: "refused", 429: "refused", 503: "unavailable", 529: "unavailable"}  # fields of the pool's Errors
_FINAL = _TIMEOUTS | _BLAMELESS  # not tried again on another upstream


class Exchange:
    """A request on its way; `clients.connection.Exchange`, and the `Carrier` of its answer."""

    __slots__ = (
        "_answer", "_began", "_body", "_client", "_engine_has_it", "_forwarder", "_lease", "_outcome", "_over", "_own",
        "_sent", "_task", "_tried", "_upstream", "body_limit", "head", "is_page",
    )  # fmt: skip

    def __init__(self, head: RequestHead, client: ClientConnection, forwarder: "Forwarder") -> None:
        self.head = head
        self.is_page = False  # it goes to the proxy's own pages
        self.body_limit = forwarder.gate.max_body
        self._client = client
        self._forwarder = forwarder
        self._outcome = Outcome(forwarder.gate.request_id(head), head.method, client.peer, monotonic(), head.path)
        self._own = b""  # header lines for the client, whoever answers
        self._answer: Answer | None = None
        self._body = b""
        self._lease: Lease | None = None
        self._upstream: Upstream | None = None  # whom the request is with
        self._began = 0.0  # when this attempt did
        self._tried: set[Upstream] = set()
        self._sent = False  # an engine had the prompt
        self._engine_has_it = False  # so has the one of this attempt
        self._task: asyncio.Task[None] | None = None  # waits for a slot, or connects
        self._over = False

    # clients.connection.Exchange

    @property
    def filler(self) -> bytes:
        answer = self._answer
        if answer is not None and answer.begun:
            return answer.filler
        return CONTINUE if self.head.http11 else b""

    def admit(self) -> None:
        gate = self._forwarder.gate
        try:
            way = gate.way(self.head)
            self._outcome.path = self.head.path
            self._own = gate.access.cors_fields(self.head.text(b"origin"))
            if way is Way.PREFLIGHT:
                self._answer_preflight(gate.preflight(self.head))
                return
            self.is_page = way is Way.PAGE
            self._check_body()
        except errors.Refusal as refusal:
            self._outcome.path = self.head.path
            self.refuse(refusal)

    def serve(self, body: bytes) -> None:
        try:
            self._serve(body)
        except errors.Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:
            self._fail_as_bug(error)

    def refuse(self, refusal: errors.Refusal) -> None:
        outcome, head = self._outcome, self.head
        outcome.status, outcome.error = refusal.status, refusal.code
        keep = self._keeps_alive and not refusal.close
        transport = self._client.transport
        if transport is not None:
            transport.write(
                refusal_bytes(
                    refusal,
                    head.path,
                    outcome.request_id,
                    own=self._own,
                    keep_alive=keep,
                    http11=head.http11,
                    head_only=head.method == "HEAD",
                )
            )
        self._finish(keep_alive=keep)

    def client_left(self) -> None:
        self._stop_waiting()
        answer = self._answer
        if answer is not None:
            answer.abandon()
            self._record(answer)
        self._hand_back(answer)
        if not self.head.path.startswith(API):  # whoever watches events leaves when it has seen enough
            self._outcome.client_left()
        self._close_account()

    def pause(self) -> None:
        if self._answer is not None:
            self._answer.pause()

    def resume(self) -> None:
        if self._answer is not None:
            self._answer.resume()

    # on the way down

    def _check_body(self) -> None:
        """Raises Refusal for a body that is not worth reading."""
        if not self.head.has_body:
            return
        if self.head.length > self.body_limit:
            raise errors.too_large(self.body_limit)
        if not self.is_page:
            self._forwarder.check_queue(self.head.path)

    def _serve(self, body: bytes) -> None:
        head, forwarder = self.head, self._forwarder
        if not self.is_page and forwarder.gate.stopping:
            raise errors.shutting_down()
        self._body = body
        answer = self._answer = Answer(head, self._client, self, self._own)
        if self.is_page:
            self._upstream = forwarder.pages
            self._began = monotonic()
        else:
            if head.method == "POST":
                answer.expects_stream = bodies.checked(head, body).streaming
            lease = forwarder.at_once(head.path, self._tried)
            if lease is None:
                self._task = forwarder.run(self._fetch())
                return
            self._take(lease)
        assert self._upstream is not None
        connection = forwarder.idle.take(self._upstream, self._began)
        if connection is None:
            self._task = forwarder.run(self._fetch())
        else:
            self._send(connection)

    def _take(self, lease: Lease) -> None:
        assert self._answer is not None
        lease.streaming = self._answer.expects_stream
        self._lease, self._upstream = lease, lease.upstream
        self._outcome.instance = lease.upstream.instance
        self._began = monotonic()
        self._engine_has_it = False

    async def _fetch(self, *, fresh: bool = False) -> None:
        """A slot, if there is none yet, and a connection, `fresh` or not; then send."""
        try:
            connection = await self._fetched(fresh=fresh)
        except errors.Refusal as refusal:
            self._refused_a_slot(refusal)
        except Exception as error:
            self._fail_as_bug(error)
        else:
            self._task = None
            if isinstance(connection, Failure):
                self.attempt_over(connection)
            else:
                self._send(connection)

    async def _fetched(self, *, fresh: bool) -> EngineConnection | Failure:
        forwarder = self._forwarder
        if self._upstream is None:
            self._take(await self._wait())
        upstream = self._upstream
        assert upstream is not None
        connection = None if fresh else forwarder.idle.take(upstream, monotonic())
        if connection is not None:
            return connection
        try:
            return await forwarder.connect(upstream)
        except OSError as error:
            return Failure(Kind.REFUSED, f"it refused the connection ({error.strerror or 'timed out'})")

    async def _wait(self) -> Lease:
        forwarder, outcome = self._forwarder, self._outcome
        if self._tried and (lease := forwarder.at_once(self.head.path, self._tried)) is not None:
            return lease
        began = monotonic()
        outcome.queued = True
        try:
            lease = await forwarder.wait(self._tried)
        finally:
            outcome.queue_wait += monotonic() - began
        outcome.queued = False
        return lease

    def _send(self, connection: EngineConnection) -> None:
        upstream, answer, outcome, forwarder = self._upstream, self._answer, self._outcome, self._forwarder
        assert upstream is not None
        assert answer is not None
        request_id = outcome.request_id.encode()
        body = self._body if upstream.model is None else bodies.renamed(self._body, upstream.model)
        payload = forwarder.recipe(upstream).request(self.head, body, request_id)
        own = b"x-request-id: %b\r\n" % request_id
        observer = None
        if self._lease is not None:
            self._sent = self._engine_has_it = True
            own = b"%bx-slotproxy-instance: %b\r\nx-slotproxy-queue-ms: %d\r\n" % (
                own,
                upstream.instance.encode(),
                round(outcome.queue_wait * 1000),
            )
            if upstream.observed:
                observer = partial(forwarder.leases.owner.answered, upstream)
        answer.keep_alive = self._keeps_alive
        answer.send(connection, payload, own, observer)

    # answer.Carrier: on the way back

    def answer_begun(self) -> None:
        self._body = b""  # it will not be sent again
        self._client.let_body_go()

    def attempt_over(self, failure: Failure | None) -> None:
        try:
            self._attempt_over(failure)
        except Exception as error:
            self._fail_as_bug(error)

    def _attempt_over(self, failure: Failure | None) -> None:
        answer, forwarder = self._answer, self._forwarder
        assert answer is not None
        if failure is not None and failure.kind is Kind.STALE:
            forwarder.metrics.retried(failure.kind.value)
            self._task = forwarder.run(self._fetch(fresh=True))
            return
        upstream, leased = self._upstream, self._lease is not None
        if leased:
            failure = self._report(answer, failure)
            self._hand_back(answer, working=failure is not None and failure.kind not in (Kind.REFUSED, Kind.LIMITED))
            forwarder.rate.observe(monotonic() - self._began)
        self._upstream = None
        if failure is None:
            self._complete(answer)
        elif not leased:
            self._end_with(errors.internal() if failure.kind is not Kind.SHUTDOWN else errors.shutting_down(), answer)
        else:
            assert upstream is not None
            self._tried.add(upstream)
            self._after(failure, upstream, answer)

    def _report(self, answer: Answer, failure: Failure | None) -> Failure | None:
        """Tell the supply side what became of the attempt; a Failure if it served nobody."""
        leases, upstream = self._forwarder.leases, self._upstream
        assert upstream is not None
        if failure is None:
            if answer.status not in _UNSERVED:
                return None
            leases.unserved(_COUNTED.get(answer.status, "other"))
            if answer.status in _UNAVAILABLE:
                leases.owner.failed(upstream, "unavailable")
            return None if answer.complete else Failure(Kind.LIMITED, f"it answered {answer.status}")
        if failure.kind not in _BLAMELESS and failure.kind is not Kind.REFUSED:
            late = failure.kind in _TIMEOUTS
            leases.unserved("timeout" if late else "other")
            leases.owner.failed(upstream, "hang" if late else failure.kind.value)
        return failure

    def _after(self, failure: Failure, upstream: Upstream, answer: Answer) -> None:
        """Try another upstream, or tell the client."""
        forwarder = self._forwarder
        if failure.kind not in _BLAMELESS:
            forwarder.metrics.upstream_failed(failure.kind.value)
        logger.warning("request %s: instance %s: %s", self._outcome.request_id, upstream.instance, failure.text)
        final = failure.kind in _FINAL
        if not answer.begun and not final and len(self._tried) < TRIES and forwarder.others(self._tried, failure):
            forwarder.metrics.retried(failure.kind.value)
            self._task = forwarder.run(self._fetch())
        elif answer.refusal is not None and not answer.begun and not final:
            self._give_refusal(answer)
        else:
            self._end_with(_refusal(failure, sent=self._sent), answer)

    def _refused_a_slot(self, refusal: errors.Refusal) -> None:
        """None is to be had for another try, or for the first."""
        self._task = None
        answer = self._answer
        if answer is not None and answer.refusal is not None:
            self._give_refusal(answer)
        else:
            self.refuse(refusal)

    def _give_refusal(self, answer: Answer) -> None:
        """The upstream's own, which was kept back."""
        refusal = answer.refusal
        assert refusal is not None
        self._outcome.instance = refusal.instance
        answer.release(refusal)
        self._complete(answer)

    def _end_with(self, refusal: errors.Refusal, answer: Answer) -> None:
        if not answer.begun:
            self.refuse(refusal)
            return
        self._outcome.error = refusal.code
        answer.cut(refusal)
        self._complete(answer)

    def _complete(self, answer: Answer) -> None:
        self._record(answer)
        self._finish(keep_alive=answer.keep_alive and not self._forwarder.gate.stopping)

    # the end

    def _finish(self, *, keep_alive: bool) -> None:
        if not self._over:
            self._close_account()
            self._client.answered(keep_alive=keep_alive)

    def _close_account(self) -> None:
        self._over = True
        self._body = b""
        outcome, forwarder = self._outcome, self._forwarder
        outcome.finished = monotonic()
        forwarder.over(self)
        forwarder.metrics.finished(outcome)
        log_access(outcome)

    def _record(self, answer: Answer) -> None:
        outcome = self._outcome
        if answer.begun:
            outcome.status = answer.status
        if self.is_page:
            outcome.size = answer.size
            return
        outcome.first_token, outcome.last_byte, outcome.size = answer.first_token, answer.last_byte, answer.size
        if answer.meter is not None:
            outcome.usage = answer.meter.usage()

    def _hand_back(self, answer: Answer | None, *, working: bool = True) -> None:
        """Give the slot back, once. `working`: the engine may be, if it has the request and has not answered it."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if working and self._engine_has_it and answer is not None and not answer.complete:
            lease.abandon()
        else:
            lease.release()

    def _fail_as_bug(self, error: Exception) -> None:
        logger.error("request %s failed: this is a bug of slotproxy", self._outcome.request_id, exc_info=error)
        self._stop_waiting()
        answer = self._answer
        if answer is not None:
            answer.abandon()
        self._hand_back(answer)
        if self._over:
            return
        if answer is not None and answer.begun:
            self._close_account()
            self._client.abort()
        else:
            self.refuse(errors.internal())

    def _stop_waiting(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    @property
    def _keeps_alive(self) -> bool:
        return self.head.keep_alive and not self._forwarder.gate.stopping

    def _answer_preflight(self, fields: dict[str, str]) -> None:
        self._outcome.status = 204
        keep = self._keeps_alive
        if self._client.transport is not None:
            request_id, http11 = self._outcome.request_id, self.head.http11
            self._client.transport.write(
                empty_bytes(204, fields, request_id, own=self._own, keep_alive=keep, http11=http11)
            )
        self._finish(keep_alive=keep)

    # deadlines

    @property
    def is_under_way(self) -> bool:
        """Whether it is at an engine, or waits to be."""
        return not self.is_page and self._answer is not None

    def check_deadlines(self, now: float, limits: "Limits") -> None:
        answer = self._answer
        if answer is None or not answer.is_under_way:
            return
        failure = answer.unread(now, limits.stall_timeout)
        if failure is None and not self.is_page:
            failure = answer.overdue(now, limits.prefill_timeout, limits.stall_timeout)
        if failure is not None:
            answer.break_off(failure)

    def forgive(self, seconds: float) -> None:
        if self._answer is not None:
            self._answer.forgive(seconds)

    def break_off(self, failure: Failure) -> None:
        """End it from outside."""
        answer = self._answer
        if answer is not None and answer.is_under_way:
            answer.break_off(failure)
        elif self._task is not None:
            self._stop_waiting()
            self._hand_back(answer)
            self._refused_a_slot(_refusal(failure, sent=self._sent))


def _refusal(failure: Failure, *, sent: bool) -> errors.Refusal:
    if failure.kind is Kind.SHUTDOWN:
        return errors.shutting_down()
    if failure.kind in _TIMEOUTS:
        return errors.upstream_timeout(failure.text)
    return errors.upstream_failed(failure.text, sent=sent)
