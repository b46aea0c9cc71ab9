import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slotproxy.instances import memory
from slotproxy.instances.growth import Growth
from slotproxy.instances.lifecycle import State
from slotproxy.instances.memory import Reading, Total
from slotproxy.instances.settings import MemoryLimit, SupplySettings

MIB = 1 << 20


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 1000 MiB and 8 cores."""
    monkeypatch.setattr(memory, "effective_total", lambda: Total(size=1000 * MIB, source="physical memory"))
    monkeypatch.setattr(memory, "available", lambda: 1000 * MIB)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def growing(**changes: Any) -> Growth:
    return Growth(SupplySettings(model=Path("m"), state_dir=Path("s"), **changes))


def running(*, pss: int, private: int, state: State = State.READY) -> Any:
    """As much of an instance as is looked at here."""
    reading = Reading(rss=0, pss=pss * MIB, private=private * MIB, shared=0)
    return SimpleNamespace(memory=reading, at_warm_up=reading, standing=SimpleNamespace(state=state))


def test_an_explicit_number_is_started_whatever_it_costs() -> None:
    plan = growing(instances=2)
    assert plan.another([])
    assert plan.another([running(pss=2000, private=2000)])
    assert not plan.another([running(pss=1, private=1)] * 2)
    assert plan.decisions == []


def test_the_first_is_always_started_and_the_next_while_they_are_predicted_to_fit() -> None:
    plan = growing(memory_limit=MemoryLimit(percent=50))
    one = running(pss=200, private=150)
    assert plan.another([])
    assert plan.another([one])
    assert plan.another([one, one]) is False
    assert [(decision.start, decision.reason) for decision in plan.decisions] == [(True, "fits"), (False, "memory")]


def test_the_dearest_so_far_is_what_one_more_is_expected_to_cost() -> None:
    assert not growing().another([running(pss=300, private=10), running(pss=300, private=250)])


def test_no_more_are_started_after_one_that_did_not_come_up() -> None:
    plan = growing()
    assert not plan.another([running(pss=1, private=1, state=State.FAILED)])
    assert plan.decisions == []


def test_auto_ends_at_the_most_that_is_allowed() -> None:
    plan = growing(max_instances=2)
    assert not plan.another([running(pss=1, private=1)] * 2)
    assert plan.decisions[0].reason == "max-instances"
