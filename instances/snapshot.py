"""What the supply side shows of itself: frozen values, taken at one moment. Pure."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from slotproxy.instances.decisions import Decision, DecisionCount
from slotproxy.instances.lifecycle import State
from slotproxy.instances.readings import Reading


class Kind(enum.Enum):
    INSTANCE = "instance"  # started and stopped by us
    UPSTREAM = "upstream"  # runs elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step of one instance, as metrics count it. A restart is `backoff -> starting`."""

    instance: str  # "0", "1", ... or "u0", "u1", ...
    before: State
    after: State
    cause: str  # word of a bounded set: why it last failed ("crash", "hang", "lock-held", ...), "" if it never did


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Requests that were not served, by how that showed."""

    refused: int = 0  # 429: too many requests, or out of quota (402)
    unavailable: int = 0  # 503 and 529: overloaded
    timeout: int = 0  # no answer in time, or no slot in time
    other: int = 0  # the connection failed, the answer was no HTTP, or another 5xx
    total: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Self:
        """From how often each of the kinds was counted."""
        return cls(**counts, total=sum(counts.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """One rate limit of an upstream, as of its last answer."""

    limit: int
    remaining: int
    reset: float  # seconds until all of it is there again


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What became of the requests that one upstream was sent, and how it is paced."""

    requests: int  # sent to it
    errors: Errors
    pause: float  # seconds until it is asked again; 0: now
    held_back: str | None  # why it has fewer slots than it may: rate-limit, overload or quota
    limits: Mapping[str, Allowance]  # what it said of its rate limits last, by kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """All members together."""

    concurrency_limit: int = 0  # slots offered now
    active: int = 0  # leased
    queued: int = 0  # waiting for a slot
    requests: int = 0  # leases granted so far
    errors: Errors = Errors()
    average_wait: float = 0.0  # seconds a lease was waited for, over all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One instance or upstream."""

    id: str
    kind: Kind
    state: State
    pid: int | None  # None: no process of ours
    host: str
    port: int  # 0: none yet
    n_ctx: int | None  # tokens of each slot; None: the engine does not say
    slots: int
    leased: int
    memory: Reading | None  # the last reading of its process tree
    restarts: int
    reason: str  # one sentence: why it failed last; "" if it never did
    since: float  # seconds on the monotonic clock at which `state` was entered
    stale: bool = False  # the model file is another one by now; the engine serves the one it started with
    offered: int = 0  # of its slots those that requests may take now: none unless it serves, fewer under a rate limit
    traffic: Traffic | None = None  # of an upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything `/slots`, `/health`, `/ready`, `/v1/models` and `/metrics` tell about the supply."""

    members: tuple[Member, ...]
    memory_used: int  # bytes: what the instances cost together (PSS where the system has it)
    memory_limit: int  # bytes
    memory_source: str  # where the total behind the limit comes from
    decisions: tuple[Decision, ...]  # of `--instances auto`, the latest, oldest first
    models: tuple[Mapping[str, Any], ...]  # the engine's own model objects, of the first that answered
    settled: bool  # every planned instance was started or given up
    hopeless: str | None  # one sentence when nothing can ever serve without the user's help
    pool: PoolStatistics = PoolStatistics()
    memory_metric: str = "resident"  # or "wired", "vram": what is governed
    memory_pressure: float = 0.0  # share of the last ten seconds in which some task waited for memory, 0 to 1
    decision_counts: tuple[DecisionCount, ...] = ()  # of all decisions since the start

    @property
    def n_ctx(self) -> int | None:
        """The smallest context of those that serve: what a client may rely on."""
        return min((m.n_ctx for m in self.members if m.n_ctx and m.state is State.READY), default=None)


OnTransition = Callable[[Transition], None]
