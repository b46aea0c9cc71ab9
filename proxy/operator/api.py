"""`/slotproxy/api/`: what the supply side does, as JSON and as a stream, and an operator's wishes for it.

    GET    state                     everything a snapshot has
    GET    events                    the same as server-sent events, whenever it has changed
    GET    instances                 the instances and upstreams
    POST   instances                 one instance more
    DELETE instances[/ID]            one less: the newest, or that one, once its requests have ended
    POST   instances[/ID]/restart    all in turn, or that one, once its requests have ended
    GET    instances/ID/log          the last lines of its engine
    GET    evaluate-parallel-slots   ?requested=N&context_size=C: how many slots are sensible

A change is answered with 202 when it has begun; `state` and `events` show it happen.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from slotproxy.instances.errors import NoSuchInstance, OperationRefused
from slotproxy.instances.snapshot import Kind, Member, Snapshot
from slotproxy.proxy import errors
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.operator.evaluation import evaluate

PREFIX = "/slotproxy/api/"
EVERY = 0.5  # seconds between looks for a change
KEEPALIVE = 15.0  # seconds of silence after which a comment shows that the stream is alive
MOST_WATCHERS = 32

EVENT_STREAM = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Cache-Control": "no-store"}

Handler = Callable[[], web.Response]
R = TypeVar("R", bound=web.StreamResponse)


class Dress(Protocol):
    """Gives an answer the fields that every answer has."""

    def __call__(self, response: R) -> R: ...


class Operations(Protocol):
    """What an operator may ask of the supply side. Each raises NoSuchInstance or OperationRefused."""

    def add(self) -> None: ...

    def remove(self, name: str | None = None) -> str: ...

    def restart(self, name: str | None = None) -> None: ...

    def log(self, name: str) -> tuple[str, ...]: ...


class Api:
    """Answers every path below `PREFIX`."""

    def __init__(
        self, operations: Operations, snapshot: Callable[[], Snapshot], queued: Callable[[], int], version: str
    ) -> None:
        self._operations = operations
        self._snapshot = snapshot
        self._queued = queued
        self._version = version
        self._watchers = 0
        self.stopping = False

    async def answer(self, raw: web.BaseRequest, path: str, access: Access, dress: Dress) -> web.StreamResponse:
        """The response to `raw`, already sent where it is a stream. `dress` gives it what every answer has.

        Raises Refusal.
        """
        parts = path.removeprefix(PREFIX).split("/")
        if parts == ["events"]:
            if raw.method != "GET":
                raise errors.method_not_allowed("GET")
            return await self._events(raw, dress)
        return dress(self._at_once(raw, path, parts, access))

    def _at_once(self, raw: web.BaseRequest, path: str, parts: list[str], access: Access) -> web.Response:
        handlers = self._handlers(parts, raw.raw_path.partition("?")[2])
        if not handlers:
            raise errors.not_found(path)
        method = "GET" if raw.method == "HEAD" else raw.method
        handler = handlers.get(method)
        if handler is None:
            raise errors.method_not_allowed(", ".join(sorted(handlers)))
        if method != "GET" or parts[-1] == "log":
            access.check_operator()
        try:
            return handler()
        except NoSuchInstance as error:
            raise errors.no_such_instance(str(error)) from None
        except OperationRefused as error:
            raise errors.refused(str(error)) from None

    def _handlers(self, parts: list[str], query: str) -> dict[str, Handler]:
        """By method; empty: there is no such path."""
        match parts:
            case ["state"]:
                return {"GET": lambda: _json(self.state())}
            case ["instances"]:
                return {"GET": lambda: _json(self._members()), "POST": self._add, "DELETE": self._remove}
            case ["instances", "restart"]:
                return {"POST": self._restart}
            case ["instances", name]:
                return {"GET": lambda: self._one(name), "DELETE": lambda: self._remove(name)}
            case ["instances", name, "restart"]:
                return {"POST": lambda: self._restart(name)}
            case ["instances", name, "log"]:
                return {"GET": lambda: self._log(name)}
            case ["evaluate-parallel-slots"]:
                return {"GET": lambda: _json(evaluate(query))}
        return {}

    def state(self) -> dict[str, Any]:
        """A snapshot as JSON values; what only makes sense inside this process is turned into what does outside."""
        snapshot = self._snapshot()
        document: dict[str, Any] = msgspec.to_builtins(snapshot)
        document["members"] = [_member(member) for member in snapshot.members]
        return {"version": self._version, "queued": self._queued(), **document}

    def _members(self) -> list[dict[str, Any]]:
        return [_member(member) for member in self._snapshot().members]

    def _one(self, name: str) -> web.Response:
        found = next((member for member in self._snapshot().members if member.id == name), None)
        if found is None:
            raise NoSuchInstance(f"there is no instance {name!r}")
        return _json(_member(found))

    def _add(self) -> web.Response:
        self._operations.add()
        return self._begun("an instance is being started")

    def _remove(self, name: str | None = None) -> web.Response:
        gone = self._operations.remove(name)
        return self._begun(f"instance {gone} is taken out when its requests have ended")

    def _restart(self, name: str | None = None) -> web.Response:
        self._operations.restart(name)
        which = "all instances are restarted in turn" if name is None else f"instance {name} is restarted"
        return self._begun(f"{which} when the requests have ended")

    def _begun(self, message: str) -> web.Response:
        return _json({"message": message, "instances": self._members()}, 202)

    def _log(self, name: str) -> web.Response:
        return web.Response(text="".join(f"{line}\n" for line in self._operations.log(name)))

    async def _events(self, raw: web.BaseRequest, dress: Dress) -> web.StreamResponse:
        """An event at once and after every change, until the client leaves (this is cancelled) or the proxy stops."""
        if self._watchers >= MOST_WATCHERS:
            raise errors.refused(f"{MOST_WATCHERS} clients watch already, which is the most")
        self._watchers += 1
        try:
            response = dress(web.StreamResponse(headers=EVENT_STREAM))
            await response.prepare(raw)
            await self._tell(response)
            await response.write_eof()
            return response
        finally:
            self._watchers -= 1

    async def _tell(self, response: web.StreamResponse) -> None:
        shown, at = b"", monotonic()
        while not self.stopping:
            state = self.state()
            document, now = msgspec.json.encode(state), monotonic()
            mark = _without_ages(state)
            if mark != shown:
                shown, at = mark, now
                await response.write(b"event: state\ndata: %b\n\n" % document)
            elif now - at >= KEEPALIVE:
                at = now
                await response.write(b": alive\n\n")
            await asyncio.sleep(EVERY)


def _member(member: Member) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(member)
    document["seconds_in_state"] = round(monotonic() - document.pop("since"), 1)
    document["ours"] = member.kind is Kind.INSTANCE
    return document


def _without_ages(state: dict[str, Any]) -> bytes:
    """What counts as a change: everything but the passing of time."""
    return msgspec.json.encode({**state, "members": [_without_age(member) for member in state["members"]]})


def _without_age(member: dict[str, Any]) -> dict[str, Any]:
    traffic = member["traffic"]
    return {**member, "seconds_in_state": 0, "traffic": traffic and {**traffic, "pause": 0}}


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
