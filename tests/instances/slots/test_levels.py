"""Levels: what has been attained, how it decays, where whoever begins to ask begins, and who is forgotten."""

import pytest

from slotproxy.instances.slots.levels import HALF_LIFE, REMEMBERED, Levels
from slotproxy.instances.slots.principal import USUAL_COST, Principal, Turn

NOW = 1000.0


def serve(levels: Levels, name: str, tokens: float, now: float = NOW) -> Principal:
    """A request of `name` that cost so many tokens."""
    principal = levels.of(name)
    unit = levels.unit(now)
    turn = Turn(0, 0, principal, principal.interactive, USUAL_COST, now)
    levels.begin(principal, (), unit)
    levels.charge(turn, unit)
    levels.settle(turn, tokens, unit)
    return principal


def waiting(principal: Principal) -> Principal:
    principal.interactive[1] = Turn(1, 1, principal, principal.interactive, USUAL_COST, NOW)
    return principal


def levels_at(now: float) -> Levels:
    levels = Levels()
    assert levels.unit(now) == 1.0
    return levels


def test_a_token_doubles_in_a_half_life_and_then_everything_is_halved() -> None:
    levels = levels_at(NOW)
    principal = serve(levels, "a", 800.0)
    assert levels.unit(NOW + HALF_LIFE / 2) == pytest.approx(2**0.5)
    assert principal.level == 800.0
    assert levels.unit(NOW + HALF_LIFE) == 1.0
    assert principal.level == 400.0
    assert levels.unit(NOW + 3 * HALF_LIFE) == 1.0
    assert principal.level == 100.0


def test_service_is_divided_by_the_weight() -> None:
    levels = levels_at(NOW)
    levels.weigh({"heavy": 4.0})
    assert serve(levels, "heavy", 800.0).level == 200.0
    levels.weigh({})
    assert levels.of("heavy").weight == 1.0


def test_a_slot_that_is_held_is_in_flight_by_the_weight_and_then_no_longer() -> None:
    levels = levels_at(NOW)
    levels.weigh({"heavy": 4.0})
    principal = levels.of("heavy")
    turn = Turn(0, 0, principal, principal.interactive, 800.0, NOW)
    levels.charge(turn, 1.0)
    assert (principal.in_flight, principal.leases, principal.level) == (200.0, 1, 0.0)
    levels.weigh({})
    levels.settle(turn, 10.0, 1.0)
    assert (principal.in_flight, principal.leases, principal.level) == (0.0, 0, 10.0)


def test_whoever_begins_begins_where_the_last_one_that_was_served_has_come_to() -> None:
    levels = levels_at(NOW)
    serve(levels, "a", USUAL_COST)
    principal = levels.of("b")
    levels.begin(principal, (), 1.0)
    assert principal.level == USUAL_COST


def test_nobody_begins_below_its_own_level() -> None:
    levels = levels_at(NOW)
    principal = serve(levels, "a", 5000.0)
    levels.begin(principal, (), 1.0)
    assert principal.level == 5000.0


def test_nobody_begins_more_than_a_usual_request_above_the_lowest_rival() -> None:
    levels = levels_at(NOW)
    low, high = levels.of("low"), levels.of("high")
    for _ in range(20):
        serve(levels, "high", USUAL_COST)
    principal = levels.of("new")
    levels.begin(principal, (low, high), 1.0)
    assert principal.level == USUAL_COST


def test_what_a_rival_holds_counts_as_usual_however_much_is_expected_of_it() -> None:
    levels = levels_at(NOW)
    rival = levels.of("rival")
    for _ in range(20):
        serve(levels, "high", USUAL_COST)
    levels.charge(Turn(0, 0, rival, rival.interactive, 1e6, NOW), 1.0)
    principal = levels.of("new")
    levels.begin(principal, (rival,), 1.0)
    assert principal.level == 2 * USUAL_COST


def test_one_giant_changes_little_of_what_is_usual() -> None:
    levels = levels_at(NOW)
    serve(levels, "giant", 1e9)
    for _ in range(3):
        serve(levels, "a", USUAL_COST)
    principal = levels.of("new")
    levels.begin(principal, (levels.of("low"),), 1.0)
    assert principal.level < 1.2 * USUAL_COST


def test_nothing_is_forgotten_that_still_counts() -> None:
    levels = levels_at(NOW)
    serve(levels, "gone", 800.0)
    serve(levels, "long", 800.0 * 2**20)
    waiting(levels.of("waits"))
    held = levels.of("holds")
    levels.charge(Turn(0, 0, held, held.interactive, 1.0, NOW), 1.0)
    levels.unit(NOW + 11 * HALF_LIFE)
    assert set(levels.known) == {"long", "waits", "holds"}


def test_room_is_made_by_those_that_have_attained_least() -> None:
    levels = levels_at(NOW)
    waiting(levels.of("waits"))
    for number in range(REMEMBERED - 1):
        levels.of(str(number)).level = float(number)
    assert len(levels.known) == REMEMBERED
    levels.of("new")
    assert {"waits", "new", str(REMEMBERED - 2)} <= set(levels.known)
    assert "0" not in levels.known
    assert REMEMBERED / 2 < len(levels.known) < REMEMBERED
