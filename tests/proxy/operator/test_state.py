"""What the state document says of a snapshot, and when two of them say the same."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import msgspec
import pytest

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.lifecycle import State
from slotproxy.instances.readings import Reading
from slotproxy.instances.snapshot import Allowance, Errors, Kind, Member, PoolStatistics, Snapshot, Traffic
from slotproxy.proxy.operator import document
from slotproxy.proxy.operator.document import StateDocument
from slotproxy.proxy.operator.state import mark_of, member_of, state_of
from tests.proxy.operator.conftest import member, snapshot_of

DECISION = Decision(move=Move.STOP, reason="memory", sentence="no room")
TRAFFIC = Traffic(
    requests=4,
    errors=Errors(refused=1, total=1),
    pause=3.2,
    held_back="rate-limit",
    limits={"requests": Allowance(limit=500, remaining=499, reset=0.12)},
)


def full() -> Snapshot:
    """Nothing in it is empty."""
    reading = Reading(rss=5, pss=4, private=3, shared=2, footprint=1, vram=6)
    return snapshot_of(
        member("0", memory=reading, leased=1, offered=1, since=10.0),
        member("u0", kind=Kind.UPSTREAM, pid=None, traffic=TRAFFIC, state=State.BACKOFF, reason="it is away"),
        decisions=(DECISION,),
        decision_counts={("add", "fits"): 2, ("stop", "memory"): 1},
        hopeless="no model",
        pool=PoolStatistics(concurrency_limit=2, active=1, requests=7, errors=Errors(other=1, total=1)),
        memory_pressure=0.5,
    )


def told(snapshot: Snapshot, now: float = 12.34) -> StateDocument:
    return state_of(snapshot, version="1.2", queued=3, now=now)


def as_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def test_a_document_is_valid_by_its_own_types_to_the_last_field() -> None:
    encoded = msgspec.json.encode(told(full()))
    assert msgspec.json.encode(msgspec.json.decode(encoded, type=StateDocument, strict=True)) == encoded


def test_everything_a_snapshot_has_is_in_the_document() -> None:
    assert {field.name for field in fields(Snapshot)} | {"version", "queued"} == set(StateDocument.__struct_fields__)
    ages = {field.name for field in fields(Member)} - {"since"} | {"seconds_in_state", "ours"}
    assert ages == set(document.Member.__struct_fields__)


@pytest.mark.parametrize(
    ("supplied", "shown"),
    [
        (Reading, document.Memory),
        (Errors, document.Errors),
        (Traffic, document.Traffic),
        (Allowance, document.RateLimit),
        (Decision, document.Decision),
        (PoolStatistics, document.Pool),
    ],
)
def test_every_part_of_a_snapshot_is_shown_whole(supplied: Any, shown: type[msgspec.Struct]) -> None:
    assert {field.name for field in fields(supplied)} == set(shown.__struct_fields__)


def test_what_is_told_is_what_the_snapshot_has() -> None:
    state = as_json(told(full()))
    assert (state["version"], state["queued"], state["hopeless"]) == ("1.2", 3, "no model")
    instance, upstream = state["members"]
    assert (instance["id"], instance["kind"], instance["state"], instance["ours"]) == ("0", "instance", "ready", True)
    assert instance["memory"] == {"rss": 5, "pss": 4, "private": 3, "shared": 2, "footprint": 1, "vram": 6}
    assert (upstream["id"], upstream["kind"], upstream["state"], upstream["ours"]) == (
        "u0",
        "upstream",
        "backoff",
        False,
    )
    assert upstream["traffic"]["limits"] == {"requests": {"limit": 500, "remaining": 499, "reset": 0.12}}
    assert state["decisions"] == [{"move": "stop", "reason": "memory", "sentence": "no room"}]
    assert state["models"] == [{"id": "demo", "meta": {"n_ctx": 8192}}]
    assert state["pool"]["errors"]["other"] == 1


def test_times_are_told_as_ages() -> None:
    assert member_of(member("0", since=10.0), 12.34).seconds_in_state == 2.3
    assert "since" not in as_json(member_of(member("0"), 0.0))


@dataclass(frozen=True, slots=True)
class Row:
    decision: str
    reason: str
    times: int


@pytest.mark.parametrize(
    "counts",
    [
        {("add", "fits"): 2, ("stop", "memory"): 1},
        (Row("add", "fits", 2), Row("stop", "memory", 1)),
        [("add", "fits", 2), ("stop", "memory", 1)],
    ],
)
def test_decisions_are_counted_in_a_form_that_json_has(counts: Any) -> None:
    assert as_json(told(snapshot_of(decision_counts=counts)))["decision_counts"] == [
        {"decision": "add", "reason": "fits", "count": 2},
        {"decision": "stop", "reason": "memory", "count": 1},
    ]


def moved(change: Callable[[Member], Member]) -> Snapshot:
    snapshot = full()
    return replace(snapshot, members=tuple(change(one) for one in snapshot.members))


def paused(seconds: float) -> Snapshot:
    return moved(lambda one: replace(one, traffic=one.traffic and replace(one.traffic, pause=seconds)))


def test_the_passing_of_time_is_no_change() -> None:
    assert mark_of(told(full())) == mark_of(told(full(), now=99.0)) == mark_of(told(paused(1.0)))


@pytest.mark.parametrize(
    "changed",
    [
        moved(lambda one: replace(one, leased=0)),
        moved(lambda one: replace(one, state=State.DRAINING)),
        moved(lambda one: replace(one, traffic=None)),
        replace(full(), settled=False),
        replace(full(), decision_counts=cast(Any, {("add", "fits"): 3})),
        replace(full(), members=full().members[:1]),
    ],
)
def test_anything_else_is_one(changed: Snapshot) -> None:
    assert mark_of(told(changed)) != mark_of(told(full()))
