from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.chunks import LONGEST, OPENINGS


@given(st.integers(1, LONGEST))
def test_the_length_of_a_whole_chunk_tells_how_it_begins(size: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    if len(chunk) < LONGEST:
        assert OPENINGS[len(chunk)] == b"%x\r\n" % size


def test_no_length_stands_for_an_empty_chunk_nor_for_one_that_cannot_be() -> None:
    for length, opening in enumerate(OPENINGS):
        assert opening is None or (opening[0] != ord("0") and len(opening) + int(opening, 16) + 2 == length)
