"""`slotproxy plan`: what would run on this machine, and why."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from slotproxy.instances.forecast import plan
from slotproxy.instances.forecast.parallel_slots import evaluate_parallel_slots
from slotproxy.instances.forecast.plan import RULE, Forecast
from slotproxy.instances.models import demo, model
from slotproxy.instances.profiles import selection
from slotproxy.instances.wording import size
from slotproxy.proxy.commands.terminal import Page, print_json
from slotproxy.proxy.options.config import DEMO, Settings

UNKNOWN = "unknown"
ESTIMATED = "Estimated from the model file: weights and KV cache. Compute buffers and the engine's heap come on top."


def run(settings: Settings, *, as_json: bool) -> int:
    """Print the plan; the exit code. Raises ConfigurationError where a start would."""
    if not settings.local:
        return _elsewhere(settings, as_json=as_json)
    path = demo.fetch() if settings.model == DEMO else settings.model_path
    facts = model.check(path, names=selection.takes_names(settings.engine))
    found = asyncio.run(plan.forecast(settings.supply(path), facts))
    if as_json:
        print_json(document(found, settings))
    else:
        _show(found, settings)
    return 0


def document(found: Forecast, settings: Settings) -> dict[str, Any]:
    """The plan for programs. Sizes are bytes, contexts tokens; null: not known."""
    facts, estimate = found.facts, found.estimate
    slots = evaluate_parallel_slots(found.expected, found.ctx * found.expected, maximum=found.max_instances)
    return {
        "model": {
            "name": facts.name,
            "path": str(facts.path),
            "kind": facts.kind,
            "size": facts.size,
            "architecture": facts.architecture,
            "trained_context": facts.context,
        },
        "engine": {
            "name": found.profile.name,
            "installed": found.missing is None,
            "missing": found.missing,
            "shares_memory": found.profile.memory.shared,
        },
        "machine": {
            "metric": found.metric,
            "total": found.total.size,
            "source": found.total.source,
            "available": found.available,
            "limit": found.limit,
        },
        "instances": {
            "requested": found.instances,
            "max": found.max_instances,
            "expected": found.expected,
            "why": found.why,
        },
        "context": {
            "each": found.ctx,
            "all": found.ctx * found.expected,
            "rule": found.profile.context_rule,
            "each_in_one_process": found.in_one_process,
        },
        "estimate": {
            "weights": estimate.weights,
            "kv_per_token": facts.shape.kv_token,
            "kv": estimate.kv,
            "one_more": estimate.each,
            "expected": estimate.total(found.expected),
            "fit": {"limit": found.under_limit, "rule": found.under_rule, "available": found.under_available},
        },
        "measured": _measured(found),
        "upstreams": _urls(settings),
        "parallel_slots": {
            "requested": slots.requested,
            "effective": slots.effective,
            "warning": slots.warning,
        },
        "warnings": list(found.warnings()),
    }


def _measured(found: Forecast) -> dict[str, Any] | None:
    known = found.measured
    if known is None:
        return None
    return {
        "at": _when(known.at),
        "metric": known.metric,
        "instances": known.instances,
        "reason": known.reason,
        "sentence": known.sentence,
        "one_more": known.cost,
        "all": known.used,
        "tokens_per_second": list(known.rates),
        "fit": {
            "limit": found.measured_under(found.limit),
            "rule": found.measured_under(found.rule),
        },
    }


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _show(found: Forecast, settings: Settings) -> None:
    page = Page()
    page.table(_what(found, settings))
    page.line()
    known = found.measured
    heads = ("", "estimated") if known is None else ("", "estimated", f"measured {_when(known.at)[:10]}")
    page.table((row[: len(heads)] for row in _numbers(found)), heads=heads)
    page.line()
    page.line(ESTIMATED)
    page.line(f"Instances: {found.why}.", style="bold")
    if found.missing is not None:
        page.line(f"Nothing would start now: {found.missing}", style="bold red")
    for warning in found.warnings():
        page.line(f"warning: {warning}", style="yellow")
    page.show()


def _what(found: Forecast, settings: Settings) -> Iterator[tuple[str, str]]:
    facts = found.facts
    trained = f"trained for {facts.context} tokens of context" if facts.context else ""
    length = size(facts.size) if facts.size else ""
    yield "model", ", ".join(filter(None, (facts.name, facts.architecture, length, trained)))
    yield "engine", f"{found.profile.name}: {found.profile.summary}"
    yield "machine", f"{size(found.total.size)} ({found.total.source}), {size(found.available)} available now"
    limit = settings.memory_limit
    share = f" ({limit.percent:g}% of it)" if limit.percent is not None else ""
    metric = "" if found.metric == "resident" else f" of {found.metric} memory"
    yield "limit", f"{size(found.limit)}{metric}{share}"
    if settings.upstream:
        yield "beside", ", ".join(_urls(settings))


def _numbers(found: Forecast) -> Iterator[tuple[str, str, str]]:
    """Rows of name, estimate and measurement."""
    estimate, known = found.estimate, found.measured
    longer = "" if found.profile.takes_ctx else ", more if a conversation is longer"
    yield "context of each instance", f"{found.ctx} tokens{longer}", ""
    if found.in_one_process is not None and found.expected > 1:
        yield f"context of each of {found.expected} slots in one process", f"{found.in_one_process} tokens", ""
    yield f"weights, {'once for all' if estimate.shares else 'in each instance'}", _size(estimate.weights or None), ""
    yield "KV cache of a token", _size(found.facts.shape.kv_token), ""
    yield "KV cache of each instance", _size(estimate.kv), ""
    yield "one more instance", _size(estimate.each), _size(known.cost if known is not None else None)
    together = f"{found.expected} together" if found.expected > 1 else "one alone"
    yield together, _size(estimate.total(found.expected)), _size(found.measured_together)
    yield "fit under the limit", _number(found.under_limit), _number(found.measured_under(found.limit))
    yield f"fit under {RULE}% of the memory", _number(found.under_rule), _number(found.measured_under(found.rule))
    yield "fit into what is available now", _number(found.under_available), ""
    if known is not None:
        for count, rate in enumerate(known.rates, start=1):
            yield f"tokens per second of {count}", "", f"{rate:.1f}" if rate else UNKNOWN


def _size(count: int | None) -> str:
    return UNKNOWN if count is None else size(count)


def _number(count: int | None) -> str:
    return UNKNOWN if count is None else str(count)


def _elsewhere(settings: Settings, *, as_json: bool) -> int:
    if as_json:
        print_json({"model": None, "upstreams": _urls(settings)})
        return 0
    page = Page()
    page.line("No engine would be started here: requests go to")
    page.table((url,) for url in _urls(settings))
    page.show()
    return 0


def _urls(settings: Settings) -> list[str]:
    return [upstream.url for upstream in settings.upstream]
