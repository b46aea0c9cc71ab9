"""Prometheus: what DESIGN.md section 5 names, and nothing with an unbounded label.

Counters and histograms are touched once per request, when it is over. Gauges are read from the supply side's snapshot
when somebody scrapes, so that they cost nothing in between.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Snapshot, Transition
from slotproxy.proxy.outcome import Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROUTES = frozenset(
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/models",
        "/completion",
        "/completions",
        "/chat/completions",
        "/embedding",
        "/embeddings",
        "/tokenize",
        "/detokenize",
        "/infill",
        "/rerank",
        "/health",
        "/ready",
        "/metrics",
        "/slots",
        "/props",
        "/api/chat",
        "/api/generate",
    ]
)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody asked for


def route_of(path: str) -> str:
    """A label for `path`: itself if engines are known to have it, else "other"."""
    return path if path in ROUTES else "other"


class Metrics:
    """The registry of one proxy."""

    def __init__(self, snapshot: Callable[[], Snapshot], queued: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"slotproxy_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"slotproxy_{name}", text, labels, buckets=buckets, registry=registry)

        self._requests = counter("requests", "Requests by path and status; 499: the client left.", "route", "code")
        self._tokens = counter("tokens", "Tokens the engines counted.", "kind")
        self._cancelled = counter("cancelled", "Requests whose client left, by phase.", "phase")
        self._upstream_errors = counter("upstream_errors", "Failed exchanges with engines.", "kind")
        self._retries = counter("retries", "Requests sent again before their client saw a byte.", "reason")
        self._restarts = counter("instance_restarts", "Engines started again.", "instance", "reason")
        self._decisions = counter("scale_decisions", "Decisions about the number of instances.", "decision", "reason")
        self._rejected = counter("queue_rejected", "Requests the queue refused.", "reason")
        self._wait = histogram("queue_wait_seconds", "Wait for a slot.", _SECONDS)
        self._first = histogram("time_to_first_token_seconds", "Until the first event of a stream.", _SECONDS)
        self._per_token = histogram("time_per_output_token_seconds", "Between output tokens of a stream.", _PER_TOKEN)
        self._duration = histogram("request_duration_seconds", "Whole requests.", _SECONDS, "route")
        self._lag = Gauge(
            "slotproxy_event_loop_lag_seconds", "How late the last tick of the loop was.", registry=registry
        )
        Gauge("slotproxy_build_info", "Version of slotproxy.", ["version"], registry=registry).labels(release()).set(1)
        registry.register(_Supply(snapshot, queued))
        self._request_child = cache(self._requests.labels)  # labels() takes a lock and a dictionary; both are bounded
        self._duration_child = cache(self._duration.labels)
        self._prompt, self._completion, self._cached = map(self._tokens.labels, ("prompt", "completion", "cached"))
        for phase in ("queued", "prefill", "decode"):
            self._cancelled.labels(phase)
        for reason in ("full", "timeout"):
            self._rejected.labels(reason)

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def finished(self, outcome: Outcome) -> None:
        """One request is over."""
        route = route_of(outcome.path)
        self._request_child(route, str(outcome.status)).inc()
        self._duration_child(route).observe(outcome.duration)
        if outcome.left is not None:
            self._cancelled.labels(outcome.left).inc()
        if outcome.instance is None:
            return
        self._wait.observe(outcome.queue_wait)
        if outcome.first_token:
            self._first.observe(outcome.first_token - outcome.started)
            if (per_token := outcome.time_per_token) is not None:
                self._per_token.observe(per_token)
        usage = outcome.usage
        if usage.prompt:
            self._prompt.inc(usage.prompt)
        if usage.completion:
            self._completion.inc(usage.completion)
        if usage.cached:
            self._cached.inc(usage.cached)

    def upstream_failed(self, kind: str) -> None:
        self._upstream_errors.labels(kind).inc()

    def retried(self, reason: str) -> None:
        self._retries.labels(reason).inc()

    def moved(self, transition: Transition) -> None:
        """An instance changed its state."""
        if transition.before is State.BACKOFF and transition.after is State.STARTING:
            self._restarts.labels(transition.instance, transition.cause or "unknown").inc()

    def decided(self, decision: str, reason: str) -> None:
        self._decisions.labels(decision, reason).inc()

    def queue_rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def loop_lag(self, seconds: float) -> None:
        self._lag.set(seconds)


class _Supply(Collector):
    """Gauges made from a snapshot."""

    def __init__(self, snapshot: Callable[[], Snapshot], queued: Callable[[], int]) -> None:
        self._snapshot = snapshot
        self._queued = queued

    def collect(self) -> Iterable[Metric]:
        snapshot = self._snapshot()
        yield GaugeMetricFamily("slotproxy_queue_depth", "Requests waiting for a slot.", self._queued())
        yield from _slots(snapshot)
        yield from _memory(snapshot)

    def describe(self) -> Iterable[Metric]:
        return []  # nothing to check at registration: the supply side need not exist yet


def _slots(snapshot: Snapshot) -> Iterator[Metric]:
    free = busy = 0
    states = dict.fromkeys((state.value for state in State), 0)
    per_instance = GaugeMetricFamily("slotproxy_instance_busy", "Leased slots of an instance.", labels=["instance"])
    for member in snapshot.members:
        states[member.state.value] += 1
        per_instance.add_metric([member.id], member.leased)
        busy += member.leased
        if member.state is State.READY:
            free += max(0, member.slots - member.leased)
    slots = GaugeMetricFamily("slotproxy_slots", "Slots of instances, by state.", labels=["state"])
    slots.add_metric(["free"], free)
    slots.add_metric(["busy"], busy)
    yield slots
    yield per_instance
    instances = GaugeMetricFamily("slotproxy_instances", "Instances by state.", labels=["state"])
    for state, count in states.items():
        instances.add_metric([state], count)
    yield instances


def _memory(snapshot: Snapshot) -> Iterator[Metric]:
    per_instance = GaugeMetricFamily(
        "slotproxy_instance_memory_bytes", "Memory of an instance's process tree.", labels=["instance", "kind"]
    )
    for member in snapshot.members:
        reading = member.memory
        if reading is not None:
            for kind, value in (("rss", reading.rss), ("pss", reading.pss), ("uss", reading.private)):
                per_instance.add_metric([member.id, kind], value)
    yield per_instance
    used, limit = snapshot.memory_used, snapshot.memory_limit
    yield GaugeMetricFamily("slotproxy_memory_used_bytes", "Memory of all instances, the governed metric.", used)
    yield GaugeMetricFamily("slotproxy_memory_limit_bytes", "What --memory-limit allows.", limit)
    yield GaugeMetricFamily("slotproxy_memory_headroom_bytes", "Limit less used.", max(0, limit - used))


def release() -> str:
    """Version of the installed package."""
    return version("slotproxy")
