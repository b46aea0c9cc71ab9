"""What the proxy does with each request that parsed: check it, answer it itself, or forward it.

The raw target decides, as it came: nothing is decoded or normalised here, so proxy and engine cannot see two
different paths.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from multidict import istr

from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Kind, Member, Snapshot
from slotproxy.proxy import errors
from slotproxy.proxy.clients import bodies
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.exchange.answer import Request, RequestHead
from slotproxy.proxy.operator.api import PREFIX, Api
from slotproxy.proxy.errors import Refusal
from slotproxy.proxy.exchange.forward import Forwarder
from slotproxy.proxy.clients.front import ClientConnection, refuse
from slotproxy.proxy.headers import valid_request_id
from slotproxy.proxy.engines.heads import KnownRequests
from slotproxy.proxy.accounts.logs import log_access
from slotproxy.proxy.accounts.metrics import CONTENT_TYPE, Metrics
from slotproxy.proxy.accounts.outcome import Outcome
from slotproxy.proxy.clients.repeats import Known
from slotproxy.proxy.clients.turns import CLOSED, KEPT, Repeat, Turns

R = TypeVar("R", bound=web.StreamResponse)
logger = logging.getLogger(__name__)

X_REQUEST_ID, X_API_KEY = istr("X-Request-Id"), istr("X-Api-Key")
MODELS = "/v1/models"
OPEN_PATHS = frozenset({"/health", "/ready"})  # load balancers and probes have no key
_VERSIONS = (HttpVersion11, HttpVersion10)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Routes:
    """The handlers of `front.Front`."""

    def __init__(
        self,
        forwarder: Forwarder,
        metrics: Metrics,
        access: Access,
        snapshot: Callable[[], Snapshot],
        queued: Callable[[], int],
        api: Api,
        max_body: int,
    ) -> None:
        self._forwarder = forwarder
        self._metrics = metrics
        self._access = access
        self._snapshot = snapshot
        self._queued = queued
        self._api = api
        self._max_body = max_body
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._draining = False
        self.known: KnownRequests[Known] = KnownRequests()  # heads of requests that were forwarded
        self._own: dict[str, Callable[[], web.Response]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._page,
            "/slots": self._slots,
            MODELS: self._models,
        }

    @property
    def draining(self) -> bool:
        return self._draining

    def reconfigure(self, access: Access, max_body: int) -> None:
        """From the next request on by these."""
        self._access, self._max_body = access, max_body
        self.known.clear()

    def drain(self) -> None:
        """From now on whoever comes is told that the proxy stops."""
        self._draining = self._api.stopping = True

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        outcome = self._outcome(_given_id(raw), raw.method, raw.protocol)
        return await self._guarded(outcome, raw.headers.get(hdrs.ORIGIN), self._answer(raw, outcome))

    async def again(self, repeat: Repeat, client: Turns) -> web.StreamResponse:
        """A request with a head that was forwarded before; the handler of `front.Front` for those."""
        assert isinstance(client, ClientConnection)
        head: RequestHead = repeat.made
        outcome = self._outcome(head.request_id, head.method, client)
        outcome.path = head.path
        return await self._guarded(outcome, head.origin, self._relay(head, repeat.body, client, outcome))

    async def _guarded(
        self, outcome: Outcome, origin: str | None, answered: Awaitable[web.StreamResponse]
    ) -> web.StreamResponse:
        """Whatever becomes of it is an answer, and is accounted for."""
        try:
            return await answered
        except Refusal as refusal:
            outcome.status, outcome.error = refusal.status, refusal.code
            return self._done(origin, outcome, refuse(refusal, outcome.path))
        except asyncio.CancelledError:
            if not outcome.path.startswith(PREFIX):  # whoever watches events leaves when it has seen enough
                outcome.client_left()
            raise
        except Exception:
            logger.exception("request %s failed: this is a bug of slotproxy", outcome.request_id)
            outcome.status, outcome.error = 500, "internal_error"
            return self._done(origin, outcome, refuse(errors.internal(), outcome.path))
        finally:
            outcome.finished = monotonic()
            self._metrics.finished(outcome)
            log_access(outcome)

    def _outcome(self, request_id: str | None, method: str, client: object) -> Outcome:
        if request_id is None:
            request_id = f"{self._prefix}-{next(self._numbers):x}"
        peer = client.peer if isinstance(client, ClientConnection) else ""
        return Outcome(request_id, method, peer, monotonic())

    async def _answer(self, raw: web.BaseRequest, outcome: Outcome) -> web.StreamResponse:
        target = self._check(raw, outcome)
        method, path, headers, access = outcome.method, outcome.path, raw.headers, self._access
        origin = headers.get(hdrs.ORIGIN)
        if method == "OPTIONS" and origin is not None and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers:
            allowed = access.preflight_fields(origin, headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS))
            return self._done(origin, outcome, web.Response(status=204, headers=allowed))
        if access.keys and path not in OPEN_PATHS:
            access.check_key(headers.get(hdrs.AUTHORIZATION), headers.get(X_API_KEY))
        own = self._own.get(path)
        if own is not None:
            if method not in ("GET", "HEAD"):
                raise errors.method_not_allowed("GET, HEAD")
            if path != MODELS or not self._only_upstreams():
                return self._done(origin, outcome, own())
        if path.startswith(PREFIX):
            return await self._api.answer(raw, path, access, partial(self._done, origin, outcome))
        if path.startswith("/slotproxy/"):  # ours, never an engine's
            raise errors.not_found(path)
        return await self._forward(raw, outcome, target)

    def _check(self, raw: web.BaseRequest, outcome: Outcome) -> str:
        """The target in origin form. Raises Refusal for what no engine may hear of."""
        headers, version = raw.headers, raw.version
        if version not in _VERSIONS:
            raise errors.malformed("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        if outcome.method not in _METHODS:
            raise errors.method_not_allowed(", ".join(sorted(_METHODS)))
        target = _origin_form(raw.raw_path)
        outcome.path = target.partition("?")[0]
        hosts = headers.getall(hdrs.HOST, [])
        self._access.check_host(hosts, required=version.minor == 1)
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            self._access.check_origin(origin, hosts[0] if hosts else "")
        return target

    async def _forward(self, raw: web.BaseRequest, outcome: Outcome, target: str) -> web.StreamResponse:
        client, headers = raw.protocol, raw.headers
        assert isinstance(client, ClientConnection)
        origin = headers.get(hdrs.ORIGIN)
        head = RequestHead(
            method=outcome.method,
            target=target.encode("utf-8", "surrogateescape"),
            path=outcome.path,
            fields=raw._message.raw_headers,  # the bytes as they came; BaseRequest has no public name for them
            connection=hdrs.CONNECTION in headers,
            request_id=_given_id(raw),
            origin=origin,
            http11=raw.version.minor == 1,
            keep_alive=raw.keep_alive,
            check=bodies.checker(outcome.path, headers) if outcome.method == "POST" else bodies.unchecked,
            own_fields=self._access.cors_fields(origin),
        )
        client.remember(raw._message, head)
        if self.draining:  # before its body is read: there may be much of it
            raise errors.shutting_down()
        return await self._relay(head, await bodies.read(raw, self._max_body), client, outcome)

    async def _relay(
        self, head: RequestHead, body: bytes, client: ClientConnection, outcome: Outcome
    ) -> web.StreamResponse:
        if self._draining:
            raise errors.shutting_down()
        if len(body) > self._max_body:
            raise errors.too_large(self._max_body)
        request = Request(head, body, outcome.request_id, head.check(body).streaming)
        answer = await self._forwarder.forward(request, client, outcome)
        return KEPT if answer.keep_alive and not self._draining else CLOSED

    def _done(self, origin: str | None, outcome: Outcome, response: R) -> R:
        if outcome.error is None:
            outcome.status = response.status
        response.headers["x-request-id"] = outcome.request_id
        response.headers[hdrs.SERVER] = "slotproxy"
        for line in self._access.cors_fields(origin).decode().splitlines():
            name, _, value = line.partition(": ")
            response.headers[name] = value
        if self.draining:
            response.force_close()
        return response

    # the proxy's own paths

    def _health(self) -> web.Response:
        snapshot = self._snapshot()
        ready = sum(member.state is State.READY for member in snapshot.members)
        busy = sum(member.leased for member in snapshot.members)
        counts = {"instances": len(snapshot.members), "ready": ready, "busy": busy, "queued": self._queued()}
        return _json({"status": "ok", **counts})

    def _ready(self) -> web.Response:
        snapshot = self._snapshot()
        ready = [member.id for member in snapshot.members if member.state is State.READY]
        if ready and not self.draining:
            return _json({"status": "ready", "ready": len(ready), "instances": len(snapshot.members)})
        return _json({"status": "not ready", "reason": self._why_not(snapshot)}, 503)

    def _why_not(self, snapshot: Snapshot) -> str:
        if self.draining:
            return "shutting down"
        if snapshot.hopeless is not None:
            return snapshot.hopeless
        states = ", ".join(
            f"{m.id} is {m.state.value}" + (f" ({m.reason})" if m.reason else "") for m in snapshot.members
        )
        return f"no instance is ready: {states}" if states else "no instance has been started yet"

    def _page(self) -> web.Response:
        return web.Response(body=self._metrics.page(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    def _slots(self) -> web.Response:
        entries = [entry for member in self._snapshot().members for entry in _slot_entries(member)]
        return _json([{"id": number, **entry} for number, entry in enumerate(entries)])

    def _only_upstreams(self) -> bool:
        """Whether every model is somebody else's: then they say themselves what they have."""
        members = self._snapshot().members
        return bool(members) and all(member.kind is Kind.UPSTREAM for member in members)

    def _models(self) -> web.Response:
        snapshot = self._snapshot()
        return _json({"object": "list", "data": [_with_context(model, snapshot.n_ctx) for model in snapshot.models]})


def _slot_entries(member: Member) -> list[dict[str, Any]]:
    """llama-server's shape, one per slot, and who it belongs to."""
    return [
        {
            "n_ctx": member.n_ctx,
            "is_processing": number < member.leased,
            "instance": member.id,
            "state": member.state.value,
            "pid": member.pid,
        }
        for number in range(member.slots)
    ]


def _with_context(model: Mapping[str, Any], n_ctx: int | None) -> dict[str, Any]:
    """An engine's model object with the context every instance has, in the places where engines say it."""
    copy = dict(model)
    if n_ctx is not None:
        if isinstance(meta := copy.get("meta"), dict):
            copy["meta"] = {**meta, "n_ctx": n_ctx}
        copy["context_length"] = n_ctx
    return copy


def _given_id(raw: web.BaseRequest) -> str | None:
    """The client's own id of the request, if it may be used."""
    given = raw.headers.get(X_REQUEST_ID)
    return given if given is not None and valid_request_id(given) else None


def _origin_form(target: str) -> str:
    """The target as an engine gets it. Raises Refusal for what is no path (RFC 9112 section 3.2)."""
    if target.startswith("/"):
        return target
    scheme, found, rest = target.partition("://")
    if found and scheme.lower() in ("http", "https"):
        authority, slash, path = rest.partition("/")
        if authority and "@" not in authority and "?" not in authority and "#" not in authority:
            return slash + path if slash else "/"
    raise errors.malformed("The request target is not a path.")


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
