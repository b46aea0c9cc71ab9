from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.slots.claim import NO_PREFIX, Claim, Prefix, Priority, common


def test_a_prompt_is_as_large_as_its_last_block_ends() -> None:
    assert Prefix(numbers=(7, 8), ends=(100, 401)).size == 401
    assert NO_PREFIX.size == 0


def test_four_bytes_are_taken_for_a_token() -> None:
    assert Claim(prefix=Prefix(numbers=(7,), ends=(403,))).expected_prefill == 100
    assert Claim().expected_prefill == 0


def test_a_claim_that_says_nothing_is_an_ordinary_one() -> None:
    assert Claim() == Claim(principal="", priority=Priority.INTERACTIVE, session=None, session_is_weak=False)


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_common_is_the_length_of_the_equal_beginning(one: list[int], other: list[int]) -> None:
    def chained(values: list[int]) -> tuple[int, ...]:
        return tuple(hash(tuple(values[: end + 1])) for end in range(len(values)))

    expected = 0
    while expected < min(len(one), len(other)) and one[expected] == other[expected]:
        expected += 1
    assert common(chained(one), chained(other)) == expected
    ends = [tuple(range(10, 10 * len(text) + 1, 10)) for text in (one, other)]
    first, second = (Prefix(numbers=chained(t), ends=e) for t, e in zip((one, other), ends, strict=True))
    assert first.in_common(second) == 10 * expected
