import itertools

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotproxy.proxy.clients.head import MAX_FIELDS, MAX_HEAD, MAX_LINE, HeadReader, RequestHead
from slotproxy.proxy.errors import Refusal

TOKEN = st.text("abcXYZ-!#09", min_size=1, max_size=12)
VALUE = st.text([chr(code) for code in (*range(32, 127), *range(128, 256), 9)], max_size=30)
SPECIAL = st.sampled_from(["Host", "content-length", "Connection", "Expect", "Transfer-Encoding", "Authorization"])
FIELDS = st.lists(st.tuples(TOKEN | SPECIAL, VALUE | st.sampled_from(["chunked", "5", "close", "a"])), max_size=6)


def read(data: bytes) -> tuple[RequestHead, bytes]:
    reader = HeadReader()
    rest = reader.read(data)
    assert rest is not None
    assert reader.head is not None
    return reader.head, rest


def refused(data: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        HeadReader().read(data)
    assert caught.value.close
    return caught.value


def seen(head: RequestHead) -> tuple[object, ...]:
    """All that a head says."""
    return tuple(getattr(head, name) for name in RequestHead.__slots__ if name != "written")


def test_a_head_says_what_it_is_and_leaves_what_follows() -> None:
    head, rest = read(b"POST /v1/x?a=1 HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nContent-Length: 3\r\n\r\nabcGET")
    assert (head.method, head.target, head.path, rest) == ("POST", b"/v1/x?a=1", "/v1/x", b"abcGET")
    assert (head.length, head.chunked, head.has_body, head.keep_alive, head.http11) == (3, False, True, True, True)
    assert (head.lines, head.named[b"host"]) == ([b"X-A: 1"], b"h")


@given(FIELDS, st.lists(st.integers(1, 400), max_size=8), st.binary(max_size=10))
def test_where_the_bytes_were_cut_makes_no_difference(
    fields: list[tuple[str, str]], places: list[int], rest: bytes
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    data = f"POST /x HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    whole = outcome([data + rest])
    edges = [0, *sorted({min(place, len(data)) for place in places}), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges) if start < end]
    if pieces:
        pieces[-1] += rest
        assert outcome(pieces) == whole


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    reader = HeadReader()
    try:
        for number, piece in enumerate(pieces):
            rest = reader.read(piece)
            if rest is not None:
                assert reader.head is not None
                return *seen(reader.head), rest + b"".join(pieces[number + 1 :])
    except Refusal as refusal:
        return (refusal.status,)
    return (None,)


@given(FIELDS)
@example([("Host", "a"), ("Content-Length", "5")])
def test_what_is_read_is_what_httptools_reads(fields: list[tuple[str, str]]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    data = f"POST /x HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    judge = Judge()
    try:
        httptools.HttpRequestParser(judge).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return
    try:
        head, _ = read(data)
    except Refusal:
        return
    unsent = {b"host", b"content-length", b"transfer-encoding"}
    names = sorted(name.lower() for name, _ in judge.fields if name.lower() not in unsent)
    found = [line.partition(b":")[0].lower() for line in head.lines] + [name for name, _ in head.special]
    assert sorted(found) == names


class Judge:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"chunked\t", b" chunked "])
def test_chunked_is_understood(coding: bytes) -> None:
    head, _ = read(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n" % coding)
    assert head.chunked
    assert head.has_body


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: cow, chunked\r\n", 501),
        (b"Transfer-Encoding: chunked, gzip\r\n", 400),
        (b"Transfer-Encoding: identity\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Content-Length: 3\r\nContent-Length: 3\r\n", 400),
        (b"Content-Length: +3\r\n", 400),
        (b"Host: a\r\n", 400),
        (b"X\r\n", 400),
        (b"X : 1\r\n", 400),
        (b"X: 1\r\n folded\r\n", 400),
        (b"X: 1\n", 400),
        (b"X: \x00\r\n", 400),
        (b"X: \x7f\r\n", 400),
    ],
)
def test_what_two_recipients_might_read_in_two_ways_is_refused(fields: bytes, status: int) -> None:
    assert refused(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n").status == status


@pytest.mark.parametrize(
    "start",
    [
        b"GET / RTSP/1.0", b"SOURCE / ICE/1.0", b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/1.2", b"GET /",
        b"GET / HTTP/1.1 x", b" GET / HTTP/1.1", b"FOO / HTTP/1.1", b"get / HTTP/1.1", b"GET /a b HTTP/1.1",
        b"GET /\x01 HTTP/1.1", b"\x16\x03\x01", b"PRI * HTTP/2.0",
    ],
)  # fmt: skip
def test_what_is_not_plain_http_is_refused_at_any_place_of_a_connection(start: bytes) -> None:
    reader = HeadReader()
    reader.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises(Refusal) as caught:
        reader.read(start + b"\r\nHost: a\r\n\r\n")
    assert caught.value.status == 400


def test_several_blanks_between_two_words_are_read_as_one() -> None:
    head, _ = read(b"GET  /x   HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (head.method, head.target) == ("GET", b"/x")


def test_a_client_that_says_close_to_a_proxy_means_it() -> None:
    assert not read(b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\n")[0].keep_alive
    assert read(b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: keep-alive\r\n\r\n")[0].keep_alive


def test_http10_ends_its_connection_unless_it_asks_for_more_and_knows_no_chunks() -> None:
    assert not read(b"GET / HTTP/1.0\r\n\r\n")[0].keep_alive
    assert read(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")[0].keep_alive
    assert refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").status == 400


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, close", b"x, CLOSE "])
def test_close_ends_a_connection(value: bytes) -> None:
    assert not read(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: %b\r\n\r\n" % value)[0].keep_alive
    several = b"Connection: keep-alive\r\nConnection: %b\r\n" % value
    assert not read(b"GET / HTTP/1.1\r\nHost: a\r\n" + several + b"\r\n")[0].keep_alive


def test_an_offer_to_upgrade_is_not_taken_and_what_follows_is_left() -> None:
    fields = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n"
    head, rest = read(b"POST / HTTP/1.1\r\n" + fields + b"abGET")
    assert (head.length, rest, head.keep_alive) == (2, b"abGET", True)


def test_blank_lines_before_a_request_mean_nothing() -> None:
    reader = HeadReader()
    assert reader.read(b"\r\n") is None
    assert not reader.begun
    assert reader.read(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n") == b""


def head_of(size: int) -> bytes:
    """A head of so many bytes, in fields that are all within their limit."""
    start, field = b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: %b\r\n" % (b"a" * 8000)
    count, left = divmod(size - len(start) - 2, len(field))
    return start + field * (count - 1) + b"X: %b\r\n" % (b"a" * (8000 + left)) + b"\r\n"


def test_lines_and_heads_and_fields_are_limited_and_what_is_just_below_passes() -> None:
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    read(start + b"X: %b\r\n\r\n" % (b"a" * (MAX_LINE - 3)))
    assert refused(start + b"X: %b\r\n\r\n" % (b"a" * (MAX_LINE - 2))).status == 431
    read(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * (MAX_LINE - 14)))
    assert refused(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * (MAX_LINE - 13))).status == 414
    read(start + b"X: 1\r\n" * (MAX_FIELDS - 1) + b"\r\n")
    assert refused(start + b"X: 1\r\n" * MAX_FIELDS + b"\r\n").status == 431
    read(head_of(MAX_HEAD))
    assert refused(head_of(MAX_HEAD + 1)).status == 431


def test_a_head_that_never_ends_is_refused_at_its_limit() -> None:
    reader, line = HeadReader(), b"X: %b\r\n" % (b"a" * 1000)
    start = b"GET / HTTP/1.1\r\n"
    reader.read(start)
    for _ in range((MAX_HEAD - len(start)) // len(line)):
        assert reader.read(line) is None
    with pytest.raises(Refusal):
        reader.read(line)


def test_neither_an_error_nor_a_repr_shows_what_may_be_a_credential() -> None:
    assert "secret" not in refused(b"GET / HTTP/1.1\r\nAuthorization: secret\x01\r\n\r\n").message
    assert "secret" not in repr(read(b"GET / HTTP/1.1\r\nAuthorization: secret\r\n\r\n")[0])


SAME = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nAuthorization: k\r\n\r\n%b"


@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=5)), min_size=2, max_size=4))
def test_a_head_that_comes_again_is_read_as_it_was_the_first_time(messages: list[tuple[bytes, bytes]]) -> None:
    reader = HeadReader()
    for body, more in messages:
        data = SAME % (b"%d" % len(body), body + more)
        rest = reader.read(data)
        assert reader.head is not None
        assert (seen(reader.head), rest) == (seen(read(data)[0]), body + more)


@pytest.mark.parametrize("length", [b"5, 5", b"+5", b"0x5", b"", b"-5", b"9" * 30, b"5\r\nX: 1", b"5\r\nHost: b"])
def test_a_length_that_is_no_number_is_judged_as_on_a_fresh_connection(length: bytes) -> None:
    reader = HeadReader()
    reader.read(SAME % (b"3", b""))
    data = SAME % (length, b"")
    assert outcome_of(reader, data) == outcome_of(HeadReader(), data)


def outcome_of(reader: HeadReader, data: bytes) -> tuple[object, ...]:
    try:
        reader.read(data)
    except Refusal as refusal:
        return (refusal.status,)
    assert reader.head is not None
    return seen(reader.head)
