import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.engines.heads import KNOWN, LONGEST, Head, KnownHeads

HEAD = Head(200, b"OK", ((b"Server", b"llama.cpp"), (b"Content-Type", b"application/json")))


def answer(size: int, *, length: int | None = None, more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Length: %d\r\nContent-Type: application/json\r\n%b\r\n"
    return head % (size if length is None else length, more) + b"x" * size


def known(segment: bytes, head: Head = HEAD) -> KnownHeads:
    heads = KnownHeads()
    heads.add(segment, head)
    return heads


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_the_same_lines_with_another_length_are_recognised(before: int, now: int) -> None:
    assert known(answer(before)).recognise(answer(now)) == (HEAD, b"x" * now)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 700))
def test_but_only_with_the_body_whole_and_nothing_after_it(size: int, length: int, cut: int) -> None:
    heads = known(answer(5))
    assert (heads.recognise(answer(size, length=length)) is not None) == (size == length)
    assert heads.recognise(answer(size)[:cut]) is None or cut >= len(answer(size))


@pytest.mark.parametrize(
    "segment",
    [
        answer(5, more=b"X: y\r\n"),
        answer(5, more=b"Content-Length: 5\r\n"),
        answer(5, more=b"Transfer-Encoding: chunked\r\n"),
        answer(5, more=b" 6\r\n"),
        answer(5).replace(b"200 OK", b"500 OK"),
        answer(5).replace(b"HTTP/1.1", b"HTTP/1.0"),
        answer(5).replace(b": 5", b": +5"),
        answer(5).replace(b": 5", b": 5 "),
        answer(5).replace(b": 5", b": 5, 5"),
        answer(5).replace(b": 5", b": "),
        answer(5).replace(b": 5", b": 0x5"),
        answer(5).replace(b"Content-Length: 5", b"Content-Length : 5"),
        answer(5).replace(b"Content-Length: 5", b"X-Content-Length: 5"),
        b"\r\n" + answer(5),
    ],
)
def test_any_other_line_needs_a_parser(segment: bytes) -> None:
    assert known(answer(5)).recognise(segment) is None


INTERIM = b"HTTP/1.1 103 Early Hints\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize(
    "segment",
    [
        INTERIM % len(answer(5)) + answer(5),
        b"HTTP/1.1 200 OK\nContent-Length: 9\n\nabc\r\n\r\ndef",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\n\nab\r\n\r\nc",
        b"HTTP/1.1 200 OK\r\n\r\nContent-Length: 5\r\n\r\nhello",
        b"\r\n" + answer(5),
        answer(5) + b"x",
        answer(5)[:-1],
    ],
)
def test_a_segment_whose_head_the_parser_may_have_ended_elsewhere_is_not_remembered(segment: bytes) -> None:
    assert len(known(segment)) == 0


def test_what_is_remembered_is_bounded() -> None:
    heads = KnownHeads()
    for number in range(3 * KNOWN):
        heads.add(answer(5, more=b"X-Number: %d\r\n" % number), HEAD)
        assert len(heads) <= KNOWN
    assert heads.recognise(answer(7, more=b"X-Number: %d\r\n" % (3 * KNOWN - 1))) is not None


def test_a_head_over_the_limit_is_not_remembered() -> None:
    heads = KnownHeads()
    heads.add(answer(5, more=b"X-Long: %b\r\n" % (b"a" * LONGEST)), HEAD)
    assert len(heads) == 0
