"""One request: lease a slot, send it, relay the answer, hand the slot back, account for it.

admit        the gate's rules; what is refused here is refused before its body is read
serve        a free slot and an idle connection: sent at once, from the callback that brought its last byte
_fetch       else a task waits for the slot, or connects
attempt_over complete, or tried again, or an error: by the rules of `verdict`
lease        released or abandoned, exactly one of them, on every path: abandoned where the engine may be working
"""

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from slotproxy.instances.errors import InstanceError
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.lease import Answered, Lease
from slotproxy.instances.slots.pool import NOBODY
from slotproxy.instances.slots.principal import expected_cost
from slotproxy.instances.upstream import Upstream
from slotproxy.proxy import errors
from slotproxy.proxy.accounts.logs import access_logger, log_access
from slotproxy.proxy.accounts.meter import Usage, usage_of
from slotproxy.proxy.accounts.outcome import Outcome
from slotproxy.proxy.clients import bodies, json_renaming
from slotproxy.proxy.clients.claims import worth_a_look
from slotproxy.proxy.clients.connection import CONTINUE, ClientConnection
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.clients.json_body import Steps
from slotproxy.proxy.engines.failure import Failure, Kind
from slotproxy.proxy.engines.relay import EngineConnection
from slotproxy.proxy.exchange import pings, verdict
from slotproxy.proxy.exchange.answer import Answer
from slotproxy.proxy.exchange.attempts import NO_ATTEMPTS
from slotproxy.proxy.exchange.deadlines import Limits, overdue, unread
from slotproxy.proxy.exchange.gate import PAGE, PREFLIGHT
from slotproxy.proxy.exchange.misfit import Misfit, as_refusal
from slotproxy.proxy.exchange.own_answer import empty_bytes, refusal_bytes
from slotproxy.proxy.operator.paths import API

if TYPE_CHECKING:
    from slotproxy.proxy.exchange.forward import Forwarder

logger = logging.getLogger(__name__)
T = TypeVar("T")

TURN = 0.001  # seconds for which a large body is looked at without a pause


class Exchange(Answer):
    """A request on its way, and its answer; `clients.connection.Exchange`."""

    __slots__ = (
        "_attempts", "_began", "_body", "_claim", "_engine_has_it", "_forwarder", "_lease", "_outcome", "_over",
        "_task", "_upstream", "is_page",
    )  # fmt: skip

    def __init__(self, head: RequestHead, client: ClientConnection, forwarder: "Forwarder") -> None:
        Answer.__init__(self, head, client)  # super() takes its time
        self.is_page = False  # it goes to the proxy's own pages
        self._forwarder = forwarder
        self._body = b""
        self._began = 0.0  # when this attempt did
        self._claim: Claim | None = None  # None: it does not matter what it is about
        self._lease: Lease | None = None
        self._upstream: Upstream | None = None  # whom the request is with
        self._task: asyncio.Task[None] | None = None  # looks at the body, waits for a slot, or connects
        self._attempts = NO_ATTEMPTS  # those that are over
        self._engine_has_it = False  # the engine of this attempt had the prompt
        self._over = False
        request_id = forwarder.gate.request_id(head)
        self._outcome = Outcome(request_id, head.method, client.peer, monotonic(), head.path)

    @property
    def body_limit(self) -> int:
        return self._forwarder.gate.max_body

    # clients.connection.Exchange

    @property
    def filler(self) -> bytes:
        if self.begun or self.pinged:
            return super().filler
        return CONTINUE if self.request.http11 else b""

    def admit(self, *, whole: bool) -> None:
        gate, request = self._forwarder.gate, self.request
        try:
            known = request.way
            if known is not None and known[0] is gate.rules:
                way = known[1]
            else:
                way = gate.way(request)
                self._outcome.path = request.path  # that of an absolute target by now
            if way is PREFLIGHT:
                self._answer_preflight(gate.preflight(request))
                return
            if way is PAGE:
                self.is_page = True
            if request.length > gate.max_body:
                raise errors.too_large(gate.max_body)
            if not (whole or self.is_page):
                self._forwarder.check_queue(request, self._client.peer)
        except errors.Refusal as refusal:
            self.refuse(refusal)

    def serve(self, body: bytes) -> None:
        self._body = body
        self._began = began = monotonic()
        forwarder = self._forwarder
        try:
            if self.is_page:
                upstream = self._upstream = forwarder.pages
            else:
                wanted = bodies.at_a_glance(self.request, body)
                if wanted is None:
                    self._task = forwarder.run(self._look())
                    return
                if wanted is not bodies.NOTHING:
                    self.expects_stream = wanted.streaming
                request, leases = self.request, forwarder.leases
                if leases.has_choice and worth_a_look(request, body):
                    self._claim = forwarder.claim(request, body, self._client.peer)
                lease = leases.at_once(request.method, request.path, NOBODY, self._claim)
                if lease is None:
                    self._task = forwarder.run(self._fetch())
                    return
                upstream = self._take(lease)
                if lease.is_to_be_prepared:
                    self._task = forwarder.run(self._fetch())
                    return
            connection = None if self._has_to_be_rewritten(upstream) else forwarder.idle.take(upstream, began)
            if connection is None:
                self._task = forwarder.run(self._fetch())
            else:
                self._send(connection, body if upstream.model is None else self._body_for(upstream))
        except errors.Refusal as refusal:
            self.refuse(refusal)
        except InstanceError as error:
            self.refuse(forwarder.translated(error))
        except Exception as error:
            self._fail_as_bug(error)

    def refuse(self, refusal: errors.Refusal) -> None:
        if self.pinged:
            self._end_with(refusal)
            return
        outcome, head = self._outcome, self.request
        outcome.path = head.path  # that of an absolute target by now
        outcome.status, outcome.error = refusal.status, refusal.code
        keep = self._keeps_alive and not refusal.close
        transport = self._client.transport
        if transport is not None:
            transport.write(
                refusal_bytes(
                    refusal,
                    head.path,
                    outcome.request_id,
                    own=self._cors,
                    keep_alive=keep,
                    http11=head.http11,
                    head_only=head.method == "HEAD",
                )
            )
        self._finish(keep_alive=keep)

    def client_left(self) -> None:
        if self._over:
            return
        self._stop_waiting()
        self.abandon()
        self._record()
        self._hand_back()
        if not self.request.path.startswith(API):  # whoever watches events leaves when it has seen enough
            self._outcome.client_left()
        self._close_account()

    # on the way down

    def _take(self, lease: Lease) -> Upstream:
        """The slot for the attempt that begins."""
        lease.streaming = self.expects_stream
        upstream = lease.upstream
        self._lease, self._upstream = lease, upstream
        self._outcome.instance = upstream.instance
        if lease.turn is not None:
            self._outcome.affinity = lease.turn.result.value
        self._engine_has_it = False
        return upstream

    async def _look(self) -> None:
        """At a body that takes long to look at."""
        try:
            self.expects_stream = (await _in_steps(bodies.looked_at(self.request, self._body))).streaming
            if self._forwarder.leases.has_choice and worth_a_look(self.request, self._body):
                claim = self._forwarder.claim  # in a thread: of a large body it takes long
                self._claim = await asyncio.to_thread(claim, self.request, self._body, self._client.peer)
        except errors.Refusal as refusal:
            self._refused_a_slot(refusal)
        except Exception as error:
            self._fail_as_bug(error)
        else:
            await self._fetch()

    async def _fetch(self) -> None:
        """A slot, if there is none yet, and a connection; then send."""
        try:
            found = await self._fetched()
            body = b"" if isinstance(found, Failure) else await self._rewritten(found)
        except errors.Refusal as refusal:
            self._refused_a_slot(refusal)
        except Exception as error:
            self._fail_as_bug(error)
        else:
            self._task = None
            if isinstance(found, Failure):
                self.attempt_over(found)
            else:
                self._send(found, body)

    async def _fetched(self) -> EngineConnection | Failure:
        forwarder = self._forwarder
        upstream = self._upstream
        if upstream is None:
            upstream = self._take(await self._wait())
            self._began = monotonic()
        lease = self._lease
        if lease is not None and lease.is_to_be_prepared:
            await lease.prepare()
            self._began = monotonic()
            self._outcome.affinity = lease.turn.result.value  # it may have failed
        connection = None if self._attempts.stale else forwarder.idle.take(upstream, monotonic())
        if connection is not None:
            return connection
        try:
            return await forwarder.connect(upstream)
        except OSError as error:
            return Failure(Kind.REFUSED, f"it refused the connection ({error.strerror or 'timed out'})")

    async def _wait(self) -> Lease:
        forwarder, outcome = self._forwarder, self._outcome
        if (at_once := forwarder.at_once(self.request, self._attempts.tried, self._claim)) is not None:
            return at_once
        began = monotonic()
        outcome.queued = True
        claim = self._claim or forwarder.bare_claim(self.request, self._client.peer)
        try:
            lease = await forwarder.wait(self._attempts.tried, claim)
        finally:
            outcome.queue_wait += monotonic() - began
        outcome.queued = False
        outcome.queue_position = lease.position
        return lease

    def _has_to_be_rewritten(self, upstream: Upstream) -> bool:
        """Whether its body names another model than `upstream` knows, and cannot be changed at once."""
        return upstream.model is not None and json_renaming.takes_long(self._body)

    def _body_for(self, upstream: Upstream) -> bytes:
        return self._body if upstream.model is None else json_renaming.renamed(self._body, upstream.model)

    async def _rewritten(self, connection: EngineConnection) -> bytes:
        upstream = connection.upstream
        if upstream.model is None or not self._has_to_be_rewritten(upstream):
            return self._body_for(upstream)
        try:
            return b"".join(await _in_steps(json_renaming.renamed_pieces(self._body, upstream.model)))
        except BaseException:
            connection.abort()
            raise

    def _send(self, connection: EngineConnection, body: bytes) -> None:
        outcome, forwarder = self._outcome, self._forwarder
        upstream = connection.upstream
        recipe = forwarder.recipes.get(upstream) or forwarder.recipe(upstream)
        request_id = outcome.request_id.encode()
        head = recipe.head(self.request, len(body), request_id)
        observer = None
        if self._lease is None:
            own = b"x-request-id: %b\r\n" % request_id
        else:
            self._engine_has_it = True
            told = recipe.told
            if outcome.queue_wait:
                told = recipe.told_after(outcome.queue_wait, outcome.queue_position)
            if outcome.affinity is not None:
                told += b"x-slotproxy-affinity: %b\r\n" % outcome.affinity.encode()
            own = b"".join((b"x-request-id: ", request_id, b"\r\n", told))
            observer = recipe.observer
        if b"origin" in self.request.named:
            own += self._cors
        if forwarder.gate.stopping:
            self.keep_alive = False
        self.send(connection, head, body, own, observer)

    # on the way back

    def answer_begun(self) -> None:
        if self._lease is not None and self._lease.turn is not None:
            self._lease.turn.has_begun = True
        self._body = b""  # it will not be sent again
        self._client.let_body_go()

    def attempt_over(self, failure: Failure | None) -> None:
        try:
            if self._whole is not None and failure is None and self._lease is not None and self.status < 400:
                self._served(self._lease, self._whole)
            else:
                self._attempt_over(failure)
        except Exception as error:
            self._fail_as_bug(error)

    def _served(self, lease: Lease, body: bytes) -> None:
        """A good answer came whole, as most do that are no streams."""
        self._lease = None
        forwarder, outcome = self._forwarder, self._outcome
        outcome.finished = now = monotonic()
        outcome.status, outcome.size, outcome.usage = self.status, len(body), usage_of(body)
        if lease.is_of_interest:
            lease.finish(self._answered(outcome.usage, now))
        else:
            lease.release()
        if lease.holds_slot:
            if self._claim is None:  # as it mostly is: a call less
                forwarder.rate.observe(now - self._began)
            else:
                self._observe_service(now)
        self._over = True
        forwarder.active.discard(self)
        forwarder.metrics.finished(outcome)
        if access_logger.isEnabledFor(logging.INFO):
            log_access(outcome)
        self._client.answered(keep_alive=self.keep_alive and not forwarder.gate.stopping)

    def _observe_service(self, now: float) -> None:
        """Those that wait are told how long it may take by how long slots have been held."""
        claim, held = self._claim, now - self._began
        if claim is None:
            self._forwarder.rate.observe(held)
        else:
            self._forwarder.rate.observe(held, expected_cost(claim))

    def _answered(self, usage: Usage, now: float) -> Answered:
        """What the supply side learns from an answer that is complete."""
        prompt, completion, cached = usage
        prefill = self.first_token - self._began if self.first_token else None
        return Answered(prompt=prompt, completion=completion, cached=cached, prefill=prefill, total=now - self._began)

    def _attempt_over(self, failure: Failure | None) -> None:
        forwarder = self._forwarder
        if failure is not None and failure.kind is Kind.STALE:
            forwarder.metrics.retried(failure.kind.value)
            self._attempts = self._attempts.met_a_stale_connection()
            self._task = forwarder.run(self._fetch())
            return
        upstream, lease = self._upstream, self._lease
        if lease is not None:
            failure = self._tell_supply(failure, lease)
            self._hand_back(working=verdict.may_be_working(failure))
            if lease.holds_slot:
                self._observe_service(monotonic())
        self._upstream = None
        if failure is None:
            if self.complete and self.refusal is not None and not self.begun:
                self._give_refusal()
            else:
                self._complete()
        elif lease is None:
            self._end_with(errors.internal() if failure.kind is not Kind.SHUTDOWN else errors.shutting_down())
        else:
            assert upstream is not None
            self._attempts = self._attempts.failed_on(upstream, sent=self._engine_has_it)
            self._after(failure, upstream)

    def _tell_supply(self, failure: Failure | None, lease: Lease) -> Failure | None:
        """Tell the supply side what became of the attempt; a Failure if it served nobody."""
        leases = self._forwarder.leases
        found = verdict.judged(failure, self.status, complete=self.complete, holds_slot=lease.holds_slot)
        if found.counted is not None:
            leases.unserved(found.counted)
        if found.blamed is not None:
            leases.owner.failed(lease.upstream, found.blamed)
        return found.failure

    def _after(self, failure: Failure, upstream: Upstream) -> None:
        """Try another upstream, or tell the client."""
        forwarder, attempts = self._forwarder, self._attempts
        if verdict.counts(failure):
            forwarder.metrics.upstream_failed(failure.kind.value)
        logger.warning("request %s: instance %s: %s", self._outcome.request_id, upstream.instance, failure.text)
        may_go_on = attempts.may_go_on and forwarder.others(attempts.tried, failure)
        match verdict.step(failure, begun=self.begun, may_go_on=may_go_on, has_refusal=self.refusal is not None):
            case verdict.Step.ANOTHER:
                forwarder.metrics.retried(failure.kind.value)
                self._task = forwarder.run(self._fetch())
            case verdict.Step.ITS_REFUSAL:
                self._give_refusal()
            case verdict.Step.OUR_REFUSAL:
                self._end_with(verdict.refusal(failure, sent=attempts.sent > 0))

    def _refused_a_slot(self, refusal: errors.Refusal) -> None:
        """None is to be had for another try, or for the first."""
        self._task = None
        if self.refusal is not None:
            self._give_refusal()
        else:
            self.refuse(refusal)

    def _give_refusal(self) -> None:
        """The upstream's own, which was kept back."""
        refusal = self.refusal
        assert refusal is not None
        self._outcome.instance = refusal.instance
        if self.pinged or isinstance(refusal, Misfit):
            self._end_with(as_refusal(refusal.status, refusal.body, self.request.path))
            return
        self.release(refusal)
        self._complete()

    def _end_with(self, refusal: errors.Refusal) -> None:
        if not (self.begun or self.pinged):
            self.refuse(refusal)
            return
        if not self.begun:
            self._outcome.status = 200  # the client was told so
        self._outcome.error = refusal.code
        self.cut(refusal)
        self._complete()

    def _complete(self) -> None:
        if self._over:
            return
        self._record()
        self._close_account()
        self._client.answered(keep_alive=self.keep_alive and not self._forwarder.gate.stopping)

    # the end

    def _finish(self, *, keep_alive: bool) -> None:
        if not self._over:
            self._close_account()
            self._client.answered(keep_alive=keep_alive)

    def _close_account(self) -> None:
        outcome = self._outcome
        outcome.finished = monotonic()
        self._over = True
        forwarder = self._forwarder
        forwarder.active.discard(self)
        forwarder.metrics.finished(outcome)
        log_access(outcome)

    def _record(self) -> None:
        outcome = self._outcome
        if self.begun:
            outcome.status = self.status
        if self.is_page:
            outcome.size = self.size
            return
        if self.first_token:
            outcome.first_token, outcome.last_byte = self.first_token, self.last_byte
        outcome.size, outcome.usage = self.size, self.usage

    def _hand_back(self, *, working: bool = True) -> None:
        """Give the slot back, once. `working`: the engine may be, if it has the request and has not answered it."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if working and self._engine_has_it and not self.complete:
            lease.abandon()
        elif self.complete and self.status < 400 and lease.is_of_interest:
            lease.finish(self._answered(self.usage, monotonic()))
        else:
            lease.release()

    def _fail_as_bug(self, error: Exception) -> None:
        logger.error("request %s failed: this is a bug of slotproxy", self._outcome.request_id, exc_info=error)
        self._stop_waiting()
        self.abandon()
        self._hand_back()
        if self._over:
            return
        if self.begun or self.pinged:
            self._close_account()
            self._client.abort()
        else:
            self.refuse(errors.internal())

    def _stop_waiting(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    @property
    def _cors(self) -> bytes:
        """Header lines that let the page that asks read the answer."""
        return self._forwarder.gate.access.cors_fields(self.request.text(b"origin"))

    @property
    def _keeps_alive(self) -> bool:
        return self.request.keep_alive and not self._forwarder.gate.stopping

    def _answer_preflight(self, fields: dict[str, str]) -> None:
        self._outcome.status = 204
        keep = self._keeps_alive
        if self._client.transport is not None:
            request_id, http11 = self._outcome.request_id, self.request.http11
            self._client.transport.write(empty_bytes(204, fields, request_id, keep_alive=keep, http11=http11))
        self._finish(keep_alive=keep)

    @property
    def is_served(self) -> bool:
        """Whether all of it is here, and something is being done about it."""
        return self._upstream is not None or self._task is not None

    # deadlines

    def check_deadlines(self, now: float, limits: Limits) -> None:
        if self._connection is None:
            return
        if self.paused_since is not None:
            failure = unread(self, now, limits.stall_timeout)
        else:
            failure = None if self.is_page else overdue(self, now, limits)
        if failure is not None:
            self.cut_short(failure)

    def ping(self, now: float, period: float) -> None:
        """Tell a client that asked for a stream to wait, if it has heard nothing for `period` seconds."""
        if self.begun or self._over or not (self.expects_stream and self.is_served):
            return
        client, outcome = self._client, self._outcome
        transport = client.transport
        if now - (self.pinged or outcome.started) < period or not pings.may_begin(self.request):
            return
        if transport is None or transport.is_closing() or client.writing_paused:
            return
        if self.pinged:
            transport.write(pings.PING)
        else:
            self.keep_alive = self._keeps_alive
            transport.write(pings.beginning(outcome.request_id, self._cors, keep_alive=self.keep_alive))
        self.pinged = now

    def break_off(self, failure: Failure) -> None:
        """End it from outside."""
        if self.is_under_way:
            self.cut_short(failure)
        elif self._task is not None:
            self._stop_waiting()
            self._hand_back()
            self._refused_a_slot(verdict.refusal(failure, sent=self._attempts.sent > 0))


async def _in_steps(steps: Steps[T]) -> T:
    """What they come to. Others get their turn after `TURN`."""
    began = monotonic()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if monotonic() - began > TURN:
            await asyncio.sleep(0)
            began = monotonic()
