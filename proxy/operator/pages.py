"""The pages that probes, scrapers and clients of engines know: health, readiness, metrics, slots, models."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import hdrs, web

from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Kind, Member, Snapshot
from slotproxy.proxy import errors
from slotproxy.proxy.accounts.metrics import CONTENT_TYPE
from slotproxy.proxy.operator.answers import as_json, path_of
from slotproxy.proxy.operator.paths import HEALTH, METRICS, MODEL, MODELS, READY, SLOTS
from slotproxy.proxy.operator.stopping import Stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Each is made of what is so at the moment it is asked for."""

    snapshot: Callable[[], Snapshot]
    queued: Callable[[], int]
    metrics: Callable[[], bytes]
    stopping: Stopping

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(HEALTH, self._health),
            web.get(READY, self._ready),
            web.get(METRICS, self._metrics),
            web.get(SLOTS, self._slots),
            web.get(MODELS, self._models),
            web.get(MODEL + "{name:.+}", self._model),
        ]

    async def _health(self, _request: web.Request) -> web.Response:
        snapshot = self.snapshot()
        ready = sum(member.state is State.READY for member in snapshot.members)
        busy = sum(member.leased for member in snapshot.members)
        counts = {"instances": len(snapshot.members), "ready": ready, "busy": busy, "queued": self.queued()}
        return as_json({"status": "ok", **counts})

    async def _ready(self, _request: web.Request) -> web.Response:
        snapshot = self.snapshot()
        ready = sum(member.state is State.READY for member in snapshot.members)
        if ready and not self.stopping.stopping:
            return as_json({"status": "ready", "ready": ready, "instances": len(snapshot.members)})
        reason = why_not_ready(snapshot, stopping=self.stopping.stopping)
        return as_json({"status": "not ready", "reason": reason}, 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.metrics(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _slots(self, _request: web.Request) -> web.Response:
        entries = [entry for member in self.snapshot().members for entry in _slots_of(member)]
        return as_json([{"id": number, **entry} for number, entry in enumerate(entries)])

    async def _models(self, _request: web.Request) -> web.Response:
        return as_json({"object": "list", "data": self._known_models()})

    async def _model(self, request: web.Request) -> web.Response:
        written = path_of(request).removeprefix(MODEL)
        return as_json(named(self._known_models(), written, unquote(written)))

    def _known_models(self) -> list[dict[str, Any]]:
        """At least one: clients keep an empty list for a while, and show it. Raises Refusal."""
        snapshot = self.snapshot()
        if snapshot.models:
            return [with_context(model, snapshot.n_ctx) for model in snapshot.models]
        if self.stopping.stopping:
            raise errors.shutting_down()
        if snapshot.hopeless is not None:
            raise errors.no_instances(snapshot.hopeless)
        raise errors.loading(_states(snapshot) or "none has been started")


def only_upstreams(snapshot: Snapshot) -> bool:
    """Whether every model is somebody else's, who is there: then they say themselves what they have. Until one is, and
    while none is, the page tells what is known, since whoever asks would wait for them.
    """
    members = snapshot.members
    serves = any(member.state is State.READY for member in members)
    return serves and all(member.kind is Kind.UPSTREAM for member in members)


def why_not_ready(snapshot: Snapshot, *, stopping: bool) -> str:
    """For people, why no request can be served now."""
    if stopping:
        return "shutting down"
    if snapshot.hopeless is not None:
        return snapshot.hopeless
    states = _states(snapshot)
    return f"no instance is ready: {states}" if states else "no instance has been started yet"


def _states(snapshot: Snapshot) -> str:
    return ", ".join(
        f"{member.id} is {member.state.value}" + (f" ({member.reason})" if member.reason else "")
        for member in snapshot.members
    )


def named(models: Iterable[dict[str, Any]], *names: str) -> dict[str, Any]:
    """The one that has one of these names, be it as an alias. Raises Refusal."""
    for model in models:
        aliases = model.get("aliases")
        if model.get("id") in names or (isinstance(aliases, list) and not set(names).isdisjoint(map(str, aliases))):
            return model
    raise errors.model_not_found(names[-1])


def with_context(model: Mapping[str, Any], n_ctx: int | None) -> dict[str, Any]:
    """An engine's model object with the context every instance has, in the places where engines say it."""
    copy = dict(model)
    if n_ctx is not None:
        if isinstance(meta := copy.get("meta"), dict):
            copy["meta"] = {**meta, "n_ctx": n_ctx}
        copy["context_length"] = n_ctx
    return copy


def _slots_of(member: Member) -> Iterator[dict[str, Any]]:
    """llama-server's shape, one per slot, and who it belongs to."""
    for number in range(member.slots):
        yield {
            "n_ctx": member.n_ctx,
            "is_processing": number < member.leased,
            "instance": member.id,
            "state": member.state.value,
            "pid": member.pid,
        }
