"""Prometheus: every name begins with `slotproxy_`, units are base units, and no label is unbounded.

Counters and histograms are touched once per request, when it is over. Gauges are read from the supply side's snapshot
when somebody scrapes, so that they cost nothing in between.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from time import monotonic

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Errors, Snapshot, Transition
from slotproxy.proxy.accounts.counters import Labels, Spread, Tally
from slotproxy.proxy.accounts.outcome import Outcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROUTES = frozenset(
    [
        *(f"/v1/{name}" for name in ("chat/completions", "completions", "responses", "messages")),
        *(f"/v1/{name}" for name in ("embeddings", "rerank", "models")),
        *("/completion", "/completions", "/chat/completions", "/embedding", "/embeddings", "/tokenize"),
        *("/detokenize", "/infill", "/rerank", "/health", "/ready", "/metrics", "/slots", "/props"),
        *("/api/chat", "/api/generate"),
    ]
)
AFFINITY = ("hit",), ("handed-over",), ("spill",), ("cold",)
_PROMPT, _COMPLETION, _CACHED = ("prompt",), ("completion",), ("cached",)
TOGETHER = 16  # requests that are counted together
LAG_TOLD = 60.0  # seconds
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)


class Metrics:
    """The registry of one proxy."""

    def __init__(self, snapshot: Callable[[], Snapshot], queued: Callable[[], int]) -> None:
        phases = tuple((phase,) for phase in ("queued", "prefill", "decode"))
        self._uncounted: list[Outcome] = []
        self._ended: dict[tuple[str, int], int] = {}  # requests by route and status
        self._tokens = _tally("tokens", "Tokens the engines counted.", "kind", start=(_PROMPT, _COMPLETION, _CACHED))
        self._cancelled = _tally("cancelled", "Requests whose client left, by phase.", "phase", start=phases)
        self._affinity = _tally(
            "affinity", "Where a conversation was when its next turn came.", "result", start=AFFINITY
        )
        self._upstream_errors = _tally("upstream_errors", "Failed exchanges with engines.", "kind")
        self._retries = _tally("retries", "Requests sent again before their client saw a byte.", "reason")
        self._restarts = _tally("instance_restarts", "Engines started again.", "instance", "reason")
        self._rejected = _tally(
            "queue_rejected", "Requests the queue refused.", "reason", start=(("full",), ("client",), ("timeout",))
        )
        self._wait = _spread("queue_wait_seconds", "Wait for a slot.", _SECONDS)
        self._first = _spread("time_to_first_token_seconds", "Until the first event of a stream.", _SECONDS)
        self._per_token = _spread("time_per_output_token_seconds", "Between output tokens of a stream.", _PER_TOKEN)
        self._duration = _spread("request_duration_seconds", "Whole requests.", _SECONDS, "route")
        self._lag = self._lag_since = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(_Requests(self._families))
        self._registry.register(_Supply(snapshot, queued))

    def page(self) -> bytes:
        self._count()
        return generate_latest(self._registry)

    def _families(self) -> Iterator[Metric]:
        requests = _tally("requests", "Requests by path and status; 499: the client left.", "route", "code")
        for (route, status), count in self._ended.items():
            requests.add(route, str(status), amount=count)
        for tally in (
            requests, self._tokens, self._cancelled, self._affinity, self._upstream_errors, self._retries,
            self._restarts, self._rejected,
        ):  # fmt: skip
            yield tally.family()
        for spread in (self._wait, self._first, self._per_token, self._duration):
            yield spread.family()
        text = "How late a tick of the loop was, at worst in the last minute."
        yield GaugeMetricFamily("slotproxy_event_loop_lag_seconds", text, self._lag)
        build = GaugeMetricFamily("slotproxy_build_info", "Version of slotproxy.", labels=["version"])
        build.add_metric([release()], 1)
        yield build

    def finished(self, outcome: Outcome) -> None:
        """One request is over. It is counted with others, which costs half, or as soon as somebody scrapes."""
        ended = self._uncounted
        ended.append(outcome)
        if len(ended) >= TOGETHER:
            self._count()

    def _count(self) -> None:
        requests, tokens, observe = self._ended, self._tokens.counts, self._duration.observe
        prompts = completions = cached = unqueued = 0
        for outcome in self._uncounted:
            path = outcome.path
            route = path if path in ROUTES else "other"
            key = route, outcome.status
            requests[key] = requests.get(key, 0) + 1
            observe(outcome.finished - outcome.started, route)
            if outcome.left is not None:
                self._cancelled.add(outcome.left)
            if outcome.instance is None:
                continue
            if outcome.affinity is not None:
                self._affinity.add(outcome.affinity)
            if outcome.queue_wait:
                self._wait.observe(outcome.queue_wait)
            else:
                unqueued += 1
            if outcome.first_token:
                self._first.observe(outcome.first_token - outcome.started)
                if (per_token := outcome.time_per_token) is not None:
                    self._per_token.observe(per_token)
            usage = outcome.usage
            prompts += usage.prompt or 0
            completions += usage.completion or 0
            cached += usage.cached or 0
        self._uncounted.clear()
        self._wait.observe_zeros(unqueued)
        tokens[_PROMPT] += prompts
        tokens[_COMPLETION] += completions
        tokens[_CACHED] += cached

    def upstream_failed(self, kind: str) -> None:
        self._upstream_errors.add(kind)

    def retried(self, reason: str) -> None:
        self._retries.add(reason)

    def moved(self, transition: Transition) -> None:
        """An instance changed its state."""
        if transition.before is State.BACKOFF and transition.after is State.STARTING:
            self._restarts.add(transition.instance, transition.cause or "unknown")

    def queue_rejected(self, reason: str) -> None:
        self._rejected.add(reason)

    def loop_lag(self, seconds: float) -> None:
        """A tick came so late. The worst one is told for a while: nobody scrapes every second."""
        now = monotonic()
        if seconds >= self._lag or now - self._lag_since > LAG_TOLD:
            self._lag, self._lag_since = seconds, now


def _tally(name: str, text: str, *labels: str, start: Sequence[Labels] = ()) -> Tally:
    return Tally(f"slotproxy_{name}", text, *labels, start=start)


def _spread(name: str, text: str, bounds: Sequence[float], *labels: str) -> Spread:
    return Spread(f"slotproxy_{name}", text, bounds, *labels)


class _Requests(Collector):
    """What was counted."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()


class _Supply(Collector):
    """Gauges made from a snapshot."""

    def __init__(self, snapshot: Callable[[], Snapshot], queued: Callable[[], int]) -> None:
        self._snapshot = snapshot
        self._queued = queued

    def collect(self) -> Iterable[Metric]:
        snapshot = self._snapshot()
        yield GaugeMetricFamily("slotproxy_queue_depth", "Requests waiting for a slot.", self._queued())
        yield from _slots(snapshot)
        yield from _pool(snapshot)
        yield from _upstreams(snapshot)
        yield _decisions(snapshot)
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
            free += max(0, member.offered - member.leased)
    slots = GaugeMetricFamily("slotproxy_slots", "Slots of instances, by state.", labels=["state"])
    slots.add_metric(["free"], free)
    slots.add_metric(["busy"], busy)
    yield slots
    yield per_instance
    instances = GaugeMetricFamily("slotproxy_instances", "Instances by state.", labels=["state"])
    for state, count in states.items():
        instances.add_metric([state], count)
    yield instances


def _pool(snapshot: Snapshot) -> Iterator[Metric]:
    pool = snapshot.pool
    yield CounterMetricFamily("slotproxy_leases", "Slots that were given to requests.", value=pool.requests)
    errors = CounterMetricFamily("slotproxy_unserved", "Requests that no engine served, by how.", labels=["kind"])
    _count_errors(errors, (), pool.errors)
    yield errors


def _upstreams(snapshot: Snapshot) -> Iterator[Metric]:
    """Of servers that run elsewhere."""
    one, two = ["instance"], ["instance", "kind"]
    requests = CounterMetricFamily("slotproxy_upstream_requests", "Answers of an upstream.", labels=one)
    errors = CounterMetricFamily("slotproxy_upstream_unserved", "Requests it did not serve, by how.", labels=two)
    offered = GaugeMetricFamily("slotproxy_upstream_slots_offered", "Slots it may have now.", labels=one)
    pause = GaugeMetricFamily("slotproxy_upstream_pause_seconds", "Until it is asked again.", labels=one)
    limit = GaugeMetricFamily("slotproxy_upstream_ratelimit", "What its rate limit is.", labels=two)
    left = GaugeMetricFamily("slotproxy_upstream_ratelimit_remaining", "What it said was left of it.", labels=two)
    for member in snapshot.members:
        traffic = member.traffic
        if traffic is None:
            continue
        requests.add_metric([member.id], traffic.requests)
        _count_errors(errors, (member.id,), traffic.errors)
        offered.add_metric([member.id], member.offered)
        pause.add_metric([member.id], traffic.pause)
        for kind, allowance in traffic.limits.items():
            limit.add_metric([member.id, kind], allowance.limit)
            left.add_metric([member.id, kind], allowance.remaining)
    if requests.samples:  # a page about upstreams only where there are some
        yield from (requests, errors, offered, pause, limit, left)


def _count_errors(family: CounterMetricFamily, labels: Labels, errors: Errors) -> None:
    for kind in ("refused", "unavailable", "timeout", "other"):
        family.add_metric([*labels, kind], getattr(errors, kind))


def _decisions(snapshot: Snapshot) -> Metric:
    family = CounterMetricFamily(
        "slotproxy_scale_decisions", "Decisions about the number of instances.", labels=["decision", "reason"]
    )
    for counted in snapshot.decision_counts:
        family.add_metric([counted.decision.value, counted.reason], counted.count)
    return family


def _memory(snapshot: Snapshot) -> Iterator[Metric]:
    per_instance = GaugeMetricFamily(
        "slotproxy_instance_memory_bytes", "Memory of an instance's process tree.", labels=["instance", "kind"]
    )
    for member in snapshot.members:
        reading = member.memory
        if reading is not None:
            kinds = [("rss", reading.rss), ("pss", reading.pss), ("uss", reading.private)]
            kinds += [(kind, value) for kind in ("footprint", "vram") if (value := getattr(reading, kind))]
            for kind, value in kinds:
                per_instance.add_metric([member.id, kind], value)
    yield per_instance
    used, limit = snapshot.memory_used, snapshot.memory_limit
    yield GaugeMetricFamily("slotproxy_memory_used_bytes", "Memory of all instances, the governed metric.", used)
    yield GaugeMetricFamily("slotproxy_memory_limit_bytes", "What --memory-limit allows.", limit)
    yield GaugeMetricFamily(
        "slotproxy_memory_pressure",
        "Share of the last ten seconds in which some task waited for memory.",
        snapshot.memory_pressure,
    )
    yield GaugeMetricFamily("slotproxy_memory_headroom_bytes", "Limit less used.", max(0, limit - used))


def release() -> str:
    """Version of the installed package."""
    return version("slotproxy")
