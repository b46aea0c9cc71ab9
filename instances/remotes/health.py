"""Whether a server that runs elsewhere can serve, by looks at it."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slotproxy.instances.remotes.endpoint import MODELS, WITHOUT_HEALTH
from slotproxy.instances.running.probe import Probe, resolve
from slotproxy.instances.upstream import Upstream

PATH = "/health"
LOOP_DETECTED = 508  # what a slotproxy answers to a request that has passed through it before
Models = tuple[Mapping[str, Any], ...]


class Condition(enum.Enum):
    HEALTHY = "healthy"
    SILENT = "silent"  # nothing came back, as from a serial engine at work
    UNHEALTHY = "unhealthy"  # what came back says that it cannot serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What one look found."""

    condition: Condition
    trouble: str = ""  # a clause about it; "" of a healthy one
    models: Models | None = None  # that it listed; None: it was not asked, or did not list any
    n_ctx: int | None = None  # tokens of context that it said beside them


HEALTHY = Health(condition=Condition.HEALTHY)
SILENT = Health(condition=Condition.SILENT, trouble="it does not answer")


async def glance(probe: Probe, upstream: Upstream) -> Health:
    """Enough for one that serves: requests report what they find, and an API elsewhere bills what it answers."""
    return HEALTHY if await probe.listens(upstream) else SILENT


async def examine(probe: Probe, upstream: Upstream) -> Health:
    """Healthy is who says so at /health, or where there is none who lists models."""
    answer = None if upstream.host in WITHOUT_HEALTH else await probe.ask(upstream, PATH)
    if answer is not None and answer.status >= 500 and answer.status != LOOP_DETECTED:
        return _unhealthy(f"{PATH} answers {answer.status}")
    listing = await probe.ask(upstream, MODELS)
    if listing is not None and listing.status in {401, 403}:
        return _unhealthy(_about_key(upstream, listing.status))
    if listing is not None and listing.status < 300:
        return _listed(listing.document())
    if listing is not None and listing.status in {429, LOOP_DETECTED}:
        return HEALTHY  # it lives, and how much it is asked is not decided by looks at it; who asks is told of a loop
    if answer is not None and answer.status < 300:
        return HEALTHY
    if answer is None and listing is None:
        return await _unanswered(probe, upstream)
    paths = (upstream.target(path.encode()).decode() for path in (PATH, MODELS))
    return _unhealthy(f"neither {' nor '.join(paths)} answers with success")


def _unhealthy(trouble: str) -> Health:
    return Health(condition=Condition.UNHEALTHY, trouble=trouble)


def _about_key(upstream: Upstream, status: int) -> str:
    if upstream.extra_headers:
        return f"it refuses the API key ({status})"
    return f"it wants an API key ({status}): name the variable that holds it, as in URL,key-env=VAR"


def _listed(document: Any) -> Health:
    listed = resolve(document, "/data")
    n_ctx = resolve(document, "/data/0/meta/n_ctx")
    return Health(
        condition=Condition.HEALTHY,
        models=tuple(model for model in listed if isinstance(model, dict)) if isinstance(listed, list) else (),
        n_ctx=n_ctx if isinstance(n_ctx, int) else None,
    )


async def _unanswered(probe: Probe, upstream: Upstream) -> Health:
    error = await probe.certificate_error(upstream) if upstream.tls else None
    return SILENT if error is None else _unhealthy(f"its certificate is not trusted ({error})")
