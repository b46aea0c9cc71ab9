"""What the proxy does with each request that parsed: check it, answer it itself, or forward it.

The raw target decides, as it came: nothing is decoded or normalised here, so proxy and engine cannot see two
different paths.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Kind, Member, Snapshot
from slotproxy.proxy import bodies, errors
from slotproxy.proxy.access import Access
from slotproxy.proxy.answer import Request
from slotproxy.proxy.errors import Refusal
from slotproxy.proxy.forward import Forwarder
from slotproxy.proxy.front import CLOSED, KEPT, ClientConnection, refuse
from slotproxy.proxy.headers import valid_request_id
from slotproxy.proxy.logs import log_access
from slotproxy.proxy.metrics import CONTENT_TYPE, Metrics
from slotproxy.proxy.outcome import Outcome

logger = logging.getLogger(__name__)

X_REQUEST_ID, X_API_KEY = istr("X-Request-Id"), istr("X-Api-Key")
MODELS = "/v1/models"
OPEN_PATHS = frozenset({"/health", "/ready"})  # load balancers and probes have no key
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(slots=True)
class _Asked:
    """One request and what is known of it before its body."""

    raw: web.BaseRequest
    path: str
    target: str
    origin: str | None
    outcome: Outcome


class Routes:
    """The handler of `front.Front`."""

    def __init__(
        self,
        forwarder: Forwarder,
        metrics: Metrics,
        access: Access,
        snapshot: Callable[[], Snapshot],
        queued: Callable[[], int],
        max_body: int,
    ) -> None:
        self._forwarder = forwarder
        self._metrics = metrics
        self._access = access
        self._snapshot = snapshot
        self._queued = queued
        self._max_body = max_body
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self.draining = False
        self._own: dict[str, Callable[[], web.Response]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._page,
            "/slots": self._slots,
            MODELS: self._models,
        }

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        asked = _Asked(raw, "", "", None, self._outcome(raw, monotonic()))
        outcome = asked.outcome
        try:
            return await self._answer(asked)
        except Refusal as refusal:
            outcome.status, outcome.error = refusal.status, refusal.code
            return self._refuse(asked, refusal)
        except asyncio.CancelledError:
            outcome.client_left()
            raise
        except Exception:
            logger.exception("request %s failed: this is a bug of slotproxy", outcome.request_id)
            outcome.status, outcome.error = 500, "internal_error"
            return self._refuse(asked, errors.internal())
        finally:
            outcome.finished = monotonic()
            self._metrics.finished(outcome)
            log_access(outcome)

    def _outcome(self, raw: web.BaseRequest, now: float) -> Outcome:
        given = raw.headers.get(X_REQUEST_ID)
        if given is None or not valid_request_id(given):
            given = f"{self._prefix}-{next(self._numbers):x}"
        return Outcome(request_id=given, method=raw.method, path="", client=raw.remote or "", started=now)

    async def _answer(self, asked: _Asked) -> web.StreamResponse:
        self._check(asked)
        raw, access = asked.raw, self._access
        if raw.method == "OPTIONS" and asked.origin is not None and "Access-Control-Request-Method" in raw.headers:
            wanted = raw.headers.get("Access-Control-Request-Headers")
            return self._done(asked, web.Response(status=204, headers=access.preflight_fields(asked.origin, wanted)))
        if asked.path not in OPEN_PATHS:
            access.check_key(raw.headers.get(hdrs.AUTHORIZATION), raw.headers.get(X_API_KEY))
        own = self._own.get(asked.path)
        if own is not None:
            if raw.method not in ("GET", "HEAD"):
                raise errors.method_not_allowed("GET, HEAD")
            if asked.path != MODELS or not self._only_upstreams():
                return self._done(asked, own())
        if asked.path.startswith("/slotproxy/"):  # ours, never an engine's
            raise errors.not_found(asked.path)
        return await self._forward(asked)

    def _check(self, asked: _Asked) -> None:
        raw = asked.raw
        if raw.version not in ((1, 1), (1, 0)):
            raise errors.malformed("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        if raw.method not in _METHODS:
            raise errors.method_not_allowed(", ".join(sorted(_METHODS)))
        asked.target = _origin_form(raw.raw_path)
        asked.path = asked.outcome.path = asked.target.partition("?")[0]
        hosts = raw.headers.getall(hdrs.HOST, [])
        self._access.check_host(hosts, required=raw.version.minor == 1)
        asked.origin = raw.headers.get(hdrs.ORIGIN)
        self._access.check_origin(asked.origin, hosts[0] if hosts else "")

    async def _forward(self, asked: _Asked) -> web.StreamResponse:
        if self.draining:
            raise errors.shutting_down()
        raw, outcome = asked.raw, asked.outcome
        client = raw.protocol
        assert isinstance(client, ClientConnection)
        body = await bodies.read(raw, self._max_body)
        headers = raw.headers
        fields = raw._message.raw_headers  # the bytes as they came; BaseRequest has no public name for them
        wanted = bodies.check(asked.path, headers, body) if raw.method == "POST" else bodies.NOTHING
        request = Request(
            method=raw.method,
            target=asked.target.encode("utf-8", "surrogateescape"),
            path=asked.path,
            fields=fields,
            connection=hdrs.CONNECTION in headers,
            body=body,
            request_id=outcome.request_id,
            http11=raw.version.minor == 1,
            keep_alive=raw.keep_alive and not self.draining,
            streaming=wanted.streaming,
            own_fields=self._access.cors_fields(asked.origin),
        )
        answer = await self._forwarder.forward(request, client, outcome)
        return KEPT if answer.keep_alive and not self.draining else CLOSED

    def _refuse(self, asked: _Asked, refusal: Refusal) -> web.StreamResponse:
        return self._done(asked, refuse(refusal, asked.path))

    def _done(self, asked: _Asked, response: web.Response) -> web.Response:
        if asked.outcome.error is None:
            asked.outcome.status = response.status
        response.headers["x-request-id"] = asked.outcome.request_id
        response.headers[hdrs.SERVER] = "slotproxy"
        for line in self._access.cors_fields(asked.origin).decode().splitlines():
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
