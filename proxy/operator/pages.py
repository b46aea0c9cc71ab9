"""The pages that probes, scrapers and clients of engines know: health, readiness, metrics, slots, models."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web

from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Kind, Member, Snapshot
from slotproxy.proxy.accounts.metrics import CONTENT_TYPE
from slotproxy.proxy.operator.answers import as_json
from slotproxy.proxy.operator.paths import HEALTH, METRICS, MODELS, READY, SLOTS
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
        snapshot = self.snapshot()
        models = [with_context(model, snapshot.n_ctx) for model in snapshot.models]
        return as_json({"object": "list", "data": models})


def only_upstreams(snapshot: Snapshot) -> bool:
    """Whether every model is somebody else's: then they say themselves what they have."""
    return bool(snapshot.members) and all(member.kind is Kind.UPSTREAM for member in snapshot.members)


def why_not_ready(snapshot: Snapshot, *, stopping: bool) -> str:
    """For people, why no request can be served now."""
    if stopping:
        return "shutting down"
    if snapshot.hopeless is not None:
        return snapshot.hopeless
    states = ", ".join(
        f"{member.id} is {member.state.value}" + (f" ({member.reason})" if member.reason else "")
        for member in snapshot.members
    )
    return f"no instance is ready: {states}" if states else "no instance has been started yet"


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
