from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.slots.routing import POLICIES, Seat, least_busy, round_robin, without_overflow

seats = st.lists(
    st.builds(
        Seat,
        st.text(max_size=2),
        slots=st.integers(1, 9),
        leased=st.integers(0, 8),
        last_grant=st.integers(0, 99),
        overflow=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(seats)
def test_least_busy_picks_the_smallest_share_of_leased_slots(given_seats: list[Seat]) -> None:
    picked = least_busy(given_seats)
    assert all(picked.leased / picked.slots <= seat.leased / seat.slots for seat in given_seats)


@given(seats)
def test_round_robin_picks_the_one_whose_turn_is_longest_ago(given_seats: list[Seat]) -> None:
    assert round_robin(given_seats).last_grant == min(seat.last_grant for seat in given_seats)


@given(seats, st.sampled_from(sorted(POLICIES)))
def test_every_policy_picks_one_of_the_seats_and_changes_none(given_seats: list[Seat], name: str) -> None:
    before = [(seat.leased, seat.last_grant) for seat in given_seats]
    picked = POLICIES[name](given_seats)
    assert any(picked is seat for seat in given_seats)
    assert before == [(seat.leased, seat.last_grant) for seat in given_seats]


@given(seats)
def test_overflow_is_looked_at_only_when_there_is_nothing_else(given_seats: list[Seat]) -> None:
    left = list(without_overflow(given_seats))
    first = [seat for seat in given_seats if not seat.overflow]
    assert left == (first or given_seats)


def test_a_big_upstream_is_preferred_until_its_share_is_used() -> None:
    big, small = Seat("big", slots=8, leased=3), Seat("small", slots=2, leased=1)
    assert least_busy([big, small]) is big
