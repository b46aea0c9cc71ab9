from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.lifecycle import TRANSITIONS, Event, IllegalTransition, State, advance

# States in which a process of ours may exist.
SPAWNED = frozenset({State.STARTING, State.WARMING, State.READY, State.DRAINING, State.STOPPING})


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.STOPPED}
    while more := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached:
        reached |= more
    assert reached == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State)


def test_from_every_state_a_stop_leads_to_stopped() -> None:
    for start in set(State) - {State.STOPPED, State.STOPPING}:
        state = advance(start, Event.STOP)
        assert (state if state is State.STOPPED else advance(state, Event.EXITED)) is State.STOPPED


@pytest.mark.parametrize(("state", "event"), [pair for pair in product(State, Event) if pair not in TRANSITIONS])
def test_an_event_outside_the_table_raises_and_names_both(state: State, event: Event) -> None:
    with pytest.raises(IllegalTransition, match=f"'{event.value}' in state '{state.value}'"):
        advance(state, event)


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_only_warming_or_health_makes_ready_and_a_restart_always_starts_from_the_beginning(events: list[Event]) -> None:
    state = State.STOPPED
    for event in events:
        if (state, event) not in TRANSITIONS:
            continue
        before, state = state, advance(state, event)
        if state is State.READY:
            assert event in {Event.WARMED, Event.HEALTHY}
        if before not in SPAWNED and state in SPAWNED:
            assert state is State.STARTING
