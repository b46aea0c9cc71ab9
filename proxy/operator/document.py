"""The state document: what `/slotproxy/api/state` and `events` say, as types. `schema` is its JSON Schema. Pure.

It is made of a snapshot, but is a contract of its own: a field that is renamed on the supply side keeps its name here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from slotproxy.instances.lifecycle import State
from slotproxy.instances.decisions import Move
from slotproxy.instances.snapshot import Kind


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whatever is in the document has these fields and no others."""


class Memory(Part, frozen=True, kw_only=True):
    """The memory of one process tree, in bytes."""

    rss: Annotated[int, Meta(description="resident pages")]
    pss: Annotated[int, Meta(description="resident pages, shared ones divided among their users where the system does")]
    private: Annotated[int, Meta(description="pages without a file behind them")]
    shared: Annotated[int, Meta(description="resident pages that others map too, counted in full")]
    footprint: Annotated[int, Meta(description="macOS: what the system charges the processes")]
    vram: Annotated[int, Meta(description="memory of NVIDIA GPUs")]


class Errors(Part, frozen=True, kw_only=True):
    """How many requests were not served, by how that showed."""

    refused: Annotated[int, Meta(description="429 or 402: too many requests, or out of quota")]
    unavailable: Annotated[int, Meta(description="503 or 529: overloaded")]
    timeout: Annotated[int, Meta(description="no answer, or no slot, in time")]
    other: Annotated[int, Meta(description="the connection failed, the answer was no HTTP, or another 5xx")]
    total: int


class RateLimit(Part, frozen=True, kw_only=True):
    """One limit, as of the last answer that named it."""

    limit: int
    remaining: int
    reset: Annotated[float, Meta(description="seconds until all of it is there again")]


class Traffic(Part, frozen=True, kw_only=True):
    """What became of the requests that one upstream was sent, and how it is paced."""

    requests: Annotated[int, Meta(description="requests that were sent to it")]
    errors: Errors
    pause: Annotated[float, Meta(description="seconds until it is asked again; 0: now")]
    held_back: Annotated[
        str | None, Meta(description="why it has fewer slots than it may: rate-limit, overload or quota")
    ]
    limits: Annotated[dict[str, RateLimit], Meta(description="what it said of its rate limits, by kind")]


class Member(Part, frozen=True, kw_only=True):
    """One instance or upstream."""

    id: Annotated[str, Meta(description='"0", "1", ... of an instance, "u0", "u1", ... of an upstream')]
    kind: Kind
    state: State
    pid: Annotated[int | None, Meta(description="null: no process of ours")]
    host: str
    port: Annotated[int, Meta(description="0: none yet")]
    n_ctx: Annotated[int | None, Meta(description="tokens of context of each slot; null: the engine does not say")]
    slots: int
    leased: Annotated[int, Meta(description="slots that a request has now")]
    memory: Annotated[Memory | None, Meta(description="as last read; null: not read yet, or not on this machine")]
    restarts: int
    reason: Annotated[str, Meta(description='one sentence: why it failed last; "": it never did')]
    stale: Annotated[bool, Meta(description="the model file was replaced since its engine started")]
    offered: Annotated[int, Meta(description="slots that requests may take now")]
    traffic: Annotated[Traffic | None, Meta(description="of an upstream; null: an instance")]
    seconds_in_state: Annotated[float, Meta(description="seconds since `state` was entered")]
    ours: Annotated[bool, Meta(description="started and stopped by this proxy")]


class Decision(Part, frozen=True, kw_only=True):
    """One decision of `--instances auto` about the number of instances."""

    move: Move
    reason: Annotated[str, Meta(description="a word of a bounded set, as the metrics have it")]
    sentence: Annotated[str, Meta(description="the same for people")]


class DecisionCount(Part, frozen=True, kw_only=True):
    """How often it was decided so, since the start."""

    decision: Annotated[str, Meta(description="the move of the decision")]
    reason: str
    count: int


class Pool(Part, frozen=True, kw_only=True):
    """All members together."""

    concurrency_limit: Annotated[int, Meta(description="slots offered now")]
    active: Annotated[int, Meta(description="leased slots")]
    queued: Annotated[int, Meta(description="requests that wait for a slot")]
    requests: Annotated[int, Meta(description="leases granted so far")]
    errors: Errors
    average_wait: Annotated[float, Meta(description="seconds that a lease was waited for, over all of them")]


class StateDocument(Part, frozen=True, kw_only=True):
    """What the proxy knows of its instances and upstreams, at one moment."""

    version: Annotated[str, Meta(description="of slotproxy")]
    queued: Annotated[int, Meta(description="requests that wait for a slot")]
    members: tuple[Member, ...]
    memory_used: Annotated[int, Meta(description="bytes that the instances cost together")]
    memory_limit: Annotated[int, Meta(description="bytes")]
    memory_source: Annotated[str, Meta(description="where the total behind the limit comes from")]
    decisions: Annotated[tuple[Decision, ...], Meta(description="the latest, oldest first")]
    models: Annotated[tuple[dict[str, Any], ...], Meta(description="model objects as the engine has them")]
    settled: Annotated[bool, Meta(description="every planned instance was started or given up")]
    hopeless: Annotated[str | None, Meta(description="one sentence where nothing can serve without the user's help")]
    pool: Pool
    memory_metric: Annotated[str, Meta(description="what is governed: resident, wired or vram")]
    memory_pressure: Annotated[
        float, Meta(description="share of the last ten seconds in which some task waited for memory, 0 to 1")
    ]
    decision_counts: tuple[DecisionCount, ...]


def schema() -> dict[str, Any]:
    """The JSON Schema of `StateDocument`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(StateDocument)}
