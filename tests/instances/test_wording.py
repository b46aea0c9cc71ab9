import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.wording import about, article, day, instances, ordinal, size

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "a 1st"), (2, "a 2nd"), (3, "a 3rd"), (4, "a 4th"), (8, "an 8th"), (10, "a 10th"), (11, "an 11th"),
        (12, "a 12th"), (13, "a 13th"), (18, "an 18th"), (21, "a 21st"), (22, "a 22nd"), (23, "a 23rd"),
        (80, "an 80th"), (110, "a 110th"), (111, "a 111th"),
    ],
)  # fmt: skip
def test_ordinals_read_as_english(number: int, text: str) -> None:
    assert f"{article(number)} {ordinal(number)}" == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (MIB, "1.0 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (1 << 41, "2.0 TiB"),
    ],
)
def test_sizes_have_the_unit_that_fits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1000, "about 1000 bytes"),
        (round(54.46 * MIB), "about 54.5 MiB"),
        (round(99.94 * MIB), "about 99.9 MiB"),
        (round(99.96 * MIB), "about 100 MiB"),
        (round(131.3 * MIB), "about 131 MiB"),
        (round(18.6 * GIB), "about 18.6 GiB"),
    ],
)
def test_estimates_have_three_digits(count: int, text: str) -> None:
    assert about(count) == text


@given(st.integers(1 << 10, 1 << 50))
def test_an_estimate_is_never_off_by_more_than_a_twentieth(count: int) -> None:
    _, number, unit = about(count).split()
    factor = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
    assert abs(float(number) * factor - count) <= count / 20


def test_one_is_not_counted_as_several() -> None:
    assert [instances(count) for count in range(3)] == ["0 instances", "1 instance", "2 instances"]


def test_a_day_is_that_of_utc() -> None:
    assert (day(0.0), day(1764028799.0), day(1764028800.0)) == ("1970-01-01", "2025-11-24", "2025-11-25")
