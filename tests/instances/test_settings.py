import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.settings import MemoryLimit


@given(st.integers(0, 1 << 50), st.floats(0, 100))
def test_a_percentage_is_of_the_total(total: int, percent: float) -> None:
    assert 0 <= MemoryLimit(percent=percent).within(total) <= total


@pytest.mark.parametrize("total", [0, 1 << 30])
def test_a_size_is_itself_whatever_the_machine_has(total: int) -> None:
    assert MemoryLimit(size=5 << 30).within(total) == 5 << 30


def test_eighty_percent_of_a_256_gib_machine() -> None:
    assert MemoryLimit(percent=80).within(256 << 30) == int(204.8 * (1 << 30))
