from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.running.liveness import Vigil, Vital

PERIOD = 5.0
START = Vigil(limit=60.0, period=PERIOD)
Look = tuple[float, int, float | None, bool]
LOOKS = st.lists(
    st.tuples(st.floats(0, 1000), st.integers(0, 2), st.none() | st.floats(0, 1), st.booleans()), max_size=60
)


def watched(looks: list[Look]) -> list[tuple[Vigil, bool]]:
    """After each look, and whether anything showed life. What an engine has done only grows."""
    vigil, now, output, cpu, seen = START, 0.0, 0, 0.0, []
    for passed, wrote, worked, answered in looks:
        now, output, cpu = now + passed, output + wrote, cpu + (worked or 0)
        vital = Vital(output=output, cpu=None if worked is None else cpu)
        alive = vigil.moved(vital) or answered
        vigil = vigil.looked(now, vital, alive=alive)
        seen.append((vigil, alive))
    return seen


@given(LOOKS)
def test_any_sign_of_life_ends_the_silence(looks: list[Look]) -> None:
    for vigil, alive in watched(looks):
        assert not (alive and vigil.silence)


@given(LOOKS)
def test_only_as_much_silence_is_held_against_it_as_was_watched(looks: list[Look]) -> None:
    for number, (vigil, _) in enumerate(watched(looks), start=1):
        assert vigil.silence <= number * 2 * PERIOD


@given(LOOKS)
def test_an_engine_that_works_or_writes_is_never_hopeless_however_seldom_it_answers(looks: list[Look]) -> None:
    busy = [(passed, 1, worked, False) for passed, _, worked, _ in looks]
    assert not any(vigil.hopeless for vigil, _ in watched(busy))


def test_an_engine_that_stands_still_is_hopeless_at_the_limit_and_not_before() -> None:
    still = watched([(PERIOD, 0, 0.0, False)] * 14)
    assert [vigil.hopeless for vigil, _ in still] == [False] * 12 + [True] * 2


def test_time_that_we_slept_through_does_not_count() -> None:
    asleep = watched([(PERIOD, 0, 0.0, False), (PERIOD, 0, 0.0, False), (86_400.0, 0, 0.0, False)])
    assert asleep[-1][0].silence == PERIOD + 2 * PERIOD


def test_without_a_limit_nothing_is_hopeless() -> None:
    vigil = Vigil(limit=0, period=PERIOD)
    for now in range(0, 1000, 5):
        vigil = vigil.looked(now, Vital(output=0), alive=False)
    assert not vigil.hopeless
