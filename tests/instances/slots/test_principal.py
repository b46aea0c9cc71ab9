"""What one principal's service costs, and whose turn it is among its own tickets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.slots.claim import Claim, Prefix, Priority
from slotproxy.instances.slots.principal import EXPECTED_ANSWER, Principal, Tickets, Turn, cost, expected_cost


def test_tokens_of_the_answer_cost_twice_and_cached_ones_nothing() -> None:
    assert cost(100, 20, 60) == 80.0
    assert cost(100, 20) == 140.0


@pytest.mark.parametrize("counts", [(0, 0, 0), (10, 0, 10), (10, 0, 50)])
def test_no_request_costs_nothing(counts: tuple[int, int, int]) -> None:
    assert cost(*counts) == 1.0


def test_a_request_is_expected_to_find_nothing_cached() -> None:
    assert expected_cost(Claim(prefix=Prefix(numbers=(1,), ends=(400,)))) == 100 + 2 * EXPECTED_ANSWER
    assert expected_cost(Claim()) == 2 * EXPECTED_ANSWER


def waits(principal: Principal, tickets: Tickets, number: int) -> None:
    tickets[number] = Turn(number, number, principal, tickets, 1.0, 0.0)


def test_it_is_idle_only_when_no_ticket_of_any_kind_waits() -> None:
    for kind in ("interactive", "promoted", "batch"):
        principal = Principal("a", 1.0)
        assert (principal.is_idle, principal.waiting) == (True, 0)
        waits(principal, getattr(principal, kind), 1)
        assert (principal.is_idle, principal.waiting) == (False, 1)


def test_tickets_wait_by_their_priority() -> None:
    principal = Principal("a", 1.0)
    assert principal.tickets(Priority.INTERACTIVE) is principal.interactive
    assert principal.tickets(Priority.BATCH) is principal.batch


@given(st.lists(st.sampled_from(["interactive", "promoted", "batch"])))
def test_promoted_tickets_take_their_turn_by_when_they_joined(kinds: list[str]) -> None:
    principal = Principal("a", 1.0)
    for number, kind in enumerate(kinds):
        waits(principal, getattr(principal, kind), number)
    wanted = [number for number, kind in enumerate(kinds) if kind != "batch"]
    assert [turn.number for turn in principal.foreground()] == wanted
    first = principal.first
    assert (None if first is None else first.number) == (wanted[0] if wanted else None)
    if "batch" in kinds:
        assert principal.first_of_batch.number == kinds.index("batch")


def test_after_the_last_lease_nothing_is_in_flight() -> None:
    principal = Principal("a", 1.0)
    charges = [0.1, 0.2, 0.3]
    for running in itertools.accumulate(charges):
        principal.leases += 1
        principal.in_flight = running
    for charge in charges[:2]:
        principal.end(charge)
    assert principal.in_flight == pytest.approx(0.3)
    principal.end(charges[2])
    assert (principal.leases, principal.in_flight) == (0, 0.0)
