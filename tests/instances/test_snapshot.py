from dataclasses import replace

import msgspec

from slotproxy.instances.decisions import Decision, DecisionCount, Move
from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Kind, Member, Snapshot


def member(state: State, n_ctx: int | None) -> Member:
    return Member(
        id="0",
        kind=Kind.INSTANCE,
        state=state,
        pid=None,
        host="127.0.0.1",
        port=0,
        n_ctx=n_ctx,
        slots=1,
        leased=0,
        memory=None,
        restarts=0,
        reason="",
        since=0.0,
    )


def snapshot(*members: Member) -> Snapshot:
    return Snapshot(
        members=members,
        memory_used=0,
        memory_limit=0,
        memory_source="",
        decisions=(),
        models=(),
        settled=True,
        hopeless=None,
    )


def test_clients_may_rely_on_the_smallest_context_of_those_that_serve() -> None:
    serving = snapshot(member(State.READY, 4096), member(State.READY, 2048), member(State.BACKOFF, 512))
    assert serving.n_ctx == 2048


def test_a_snapshot_with_decisions_can_be_said_in_json() -> None:
    decision = Decision(move=Move.ADD, reason="fits", sentence="starting a 2nd instance")
    counts = (DecisionCount(decision=Move.ADD, reason="fits", count=2),)
    decided = replace(snapshot(member(State.READY, 4096)), decisions=(decision,), decision_counts=counts)
    document = msgspec.json.decode(msgspec.json.encode(decided))
    assert document["decisions"] == [{"move": "add", "reason": "fits", "sentence": "starting a 2nd instance"}]
    assert document["decision_counts"] == [{"decision": "add", "reason": "fits", "count": 2}]


def test_an_engine_that_does_not_tell_its_context_says_nothing_about_it() -> None:
    assert snapshot(member(State.READY, None), member(State.READY, 4096)).n_ctx == 4096
    assert snapshot(member(State.READY, None)).n_ctx is None
    assert snapshot().n_ctx is None
