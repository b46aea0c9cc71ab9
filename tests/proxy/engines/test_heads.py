import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.engines.heads import KNOWN, Head, KnownHeads, KnownRequests, head_size

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


def request(body: bytes = b"", *, length: bytes | None = None, name: bytes = b"Content-Length") -> bytes:
    size = b"%d" % len(body) if length is None else length
    return b"POST /v1/x HTTP/1.1\r\nHost: a\r\n%b: %b\r\nAccept: */*\r\n\r\n%b" % (name, size, body)


def known_requests(segment: bytes, length: int) -> KnownRequests[str]:
    heads: KnownRequests[str] = KnownRequests()
    heads.add(segment, length, "made")
    return heads


@given(st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=50))
def test_a_request_is_recognised_by_its_head_and_says_where_its_body_is(first: bytes, body: bytes, more: bytes) -> None:
    segment = request(body)
    found = known_requests(request(first), len(first)).recognise(segment + more)
    assert found == ("made", len(segment) - len(body), len(segment))


@given(st.integers(0, 200))
def test_a_request_is_not_recognised_before_its_head_is_whole(cut: int) -> None:
    segment = request(b"12345")
    found = known_requests(segment, 5).recognise(segment[:cut])
    assert (found is not None) == (cut >= len(segment) - 5)


@pytest.mark.parametrize("length", [b"5, 5", b"+5", b" 5", b"5 ", b"0x5", b"", b"-5", b"9" * 16])
def test_a_length_that_is_no_plain_number_needs_a_parser(length: bytes) -> None:
    assert known_requests(request(b"12345"), 5).recognise(request(b"12345", length=length)) is None


@pytest.mark.parametrize(
    ("segment", "length"),
    [
        (request(b"12345"), 6),
        (request(b"12345").replace(b"POST", b"PUT"), 5),
        (request(b"12345", name=b"CONTENT-LENGTH"), 5),
        (b"\r\n" + request(b"12345"), 5),
        (request(b"12345").replace(b"Host: a\r\n", b"Host: a\n"), 5),
        (request(b"12345").replace(b"Host: a\r\n", b"Host: a\n\nPOST / HTTP/1.1\r\n"), 5),
    ],
)
def test_a_request_is_not_remembered_where_a_parser_may_have_seen_another(segment: bytes, length: int) -> None:
    assert len(known_requests(segment, length)) == 0


def test_only_so_many_requests_are_remembered_and_all_can_be_forgotten() -> None:
    heads: KnownRequests[int] = KnownRequests()
    for number in range(3 * KNOWN):
        heads.add(request().replace(b"/x", b"/%d" % number), 0, number)
    assert 0 < len(heads) <= KNOWN
    heads.clear()
    assert len(heads) == 0


@pytest.mark.parametrize(
    ("segment", "size"),
    [
        (request(b"12345"), len(request())),
        (request()[:-1], None),
        (b"\r\n\r\n" + request(), None),
        (request().replace(b"Host: a\r\n", b"Host: a\n"), None),
        (b"", None),
    ],
)
def test_the_size_of_a_head_is_told_where_there_can_be_no_other(segment: bytes, size: int | None) -> None:
    assert head_size(segment) == size
