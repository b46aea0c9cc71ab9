import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.chunks import LONGEST, content_of


@given(st.integers(1, LONGEST + 100), st.binary(max_size=8))
def test_a_whole_chunk_gives_its_content_and_is_what_we_would_write_ourselves(size: int, beginning: bytes) -> None:
    content = beginning[:size].ljust(size, b"x")
    chunk = b"%x\r\n%b\r\n" % (size, content)
    assert content_of(chunk) == (content if len(chunk) < LONGEST else None)


@given(st.binary(min_size=1, max_size=40))
def test_nothing_else_is_taken_for_one(segment: bytes) -> None:
    content = content_of(segment)
    assert content is None or segment == b"%x\r\n%b\r\n" % (len(content), content)


@pytest.mark.parametrize(
    "segment",
    [
        b"0\r\n\r\n",  # the last
        b"0\r\n",
        b"05\r\nhello\r\n",
        b"A\r\n0123456789\r\n",
        b"5;x\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello\n\n",
        b"5\r\nhello",
        b"6\r\nhello\r\n",
        b"4\r\nhello\r\n",
        b"5\r\nhello\r\n5\r\nworld\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"\r\n",
        b"\n",
    ],
)
def test_what_is_framed_otherwise_is_left_to_the_parser(segment: bytes) -> None:
    assert content_of(segment) is None
