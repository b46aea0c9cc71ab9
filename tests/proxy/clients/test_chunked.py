"""What is legal and what is not follows RFC 9112 section 7.1. httptools' parser is the judge beside it."""

import itertools
import re

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotproxy.proxy.clients.chunked import (
    MAX_SIZE_LINE,
    MAX_TRAILER,
    MAX_TRAILER_FIELDS,
    MAX_TRAILERS,
    ChunkedBody,
)

LAST = b"0\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True)
BLANKS = st.sampled_from((b"", b"", b" ", b"\t", b" \t "))
TEXT = st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,12}", fullmatch=True)
QUOTED = st.from_regex(rb'"([\t\x20!\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff]){0,8}"', fullmatch=True)


def decoded(*segments: bytes) -> tuple[bytes, bytes | None]:
    """The content, and what follows the body (None: it is not over)."""
    body = ChunkedBody()
    for number, segment in enumerate(segments, 1):
        rest = body.feed(segment)
        assert body.size == sum(map(len, body.pieces))
        assert len(body.pieces) <= number
        if rest is not None:
            return b"".join(body.pieces), b"".join((rest, *segments[number:]))
    return b"".join(body.pieces), None


def outcome(*segments: bytes) -> tuple[bytes, bytes | None] | str:
    try:
        return decoded(*segments)
    except ValueError as error:
        return str(error)


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@st.composite
def sizes(draw: st.DrawFn, value: int) -> bytes:
    digits = b"%x" % value if draw(st.booleans()) else b"%X" % value
    return digits.rjust(draw(st.integers(len(digits), 15)) if draw(st.booleans()) else len(digits), b"0")


@st.composite
def extensions(draw: st.DrawFn) -> bytes:
    out = b""
    for _ in range(draw(st.integers(0, 3)) if draw(st.booleans()) else 0):
        out += draw(BLANKS) + b";" + draw(BLANKS) + draw(TOKEN)
        if draw(st.booleans()):
            out += draw(BLANKS) + b"=" + draw(BLANKS) + draw(TOKEN | QUOTED)
    return out


@st.composite
def encoded(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Content, and one way to say it in chunks."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=5))
    out = b""
    for chunk in chunks:
        out += draw(sizes(len(chunk))) + draw(extensions()) + b"\r\n" + chunk + b"\r\n"
    out += draw(sizes(0)) + draw(extensions()) + b"\r\n"
    for name, value in draw(st.lists(st.tuples(TOKEN, TEXT), max_size=3)):
        out += name + b":" + value + b"\r\n"
    return b"".join(chunks), out + b"\r\n"


@given(encoded(), st.binary(max_size=20), st.lists(st.integers(0, 3000), max_size=8))
def test_what_is_encoded_is_decoded_and_the_rest_returned_however_it_is_cut(
    case: tuple[bytes, bytes], rest: bytes, places: list[int]
) -> None:
    content, message = case
    assert decoded(message + rest) == (content, rest)
    assert decoded(*cut(message + rest, places)) == (content, rest)
    assert decoded(*bytewise(message)) == (content, b"")
    assert decoded(message[:-1])[1] is None


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    message = bytearray(draw(encoded())[1])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(message)))
        here = draw(st.sampled_from((b"", bytes(message[place : place + 1]))))
        what = draw(st.binary(max_size=2) | st.sampled_from((b"\r", b"\n", b"\0", b" ", b"0", b";", b":", b'"', b"=")))
        message[place : place + len(here)] = what
    return bytes(message)


@given(
    mutated() | st.text('01aF;=:" \t\r\n\\', max_size=20).map(str.encode), st.lists(st.integers(0, 3000), max_size=8)
)
def test_the_outcome_does_not_depend_on_the_cuts(message: bytes, places: list[int]) -> None:
    assert outcome(*cut(message, places)) == outcome(message) == outcome(*bytewise(message))


class Judge:
    """httptools' reading of the same body. It says nothing about the bytes that follow the message."""

    def __init__(self) -> None:
        self.content = b""
        self.is_over = False

    def on_body(self, data: bytes) -> None:
        self.content += data

    def on_message_complete(self) -> None:
        self.is_over = True


def judged(message: bytes) -> tuple[bytes, bool] | str:
    judge = Judge()
    parser = httptools.HttpRequestParser(judge)
    parser.feed_data(HEAD)
    for byte in bytewise(message):  # so that what comes after the message is another feed
        try:
            parser.feed_data(byte)
        except httptools.HttpParserError as error:
            return str(error)
        if judge.is_over:
            break
    return judge.content, judge.is_over


EXPLAINED = (
    re.compile(rb"[0-9A-Fa-f][ \t]+(;|\r)"),  # llhttp knows no blanks after a size,
    re.compile(rb";[ \t]+"),  # none around a semicolon
    re.compile(rb"[ \t]+;"),
    re.compile(rb"[ \t]+=|=[ \t]+"),  # and none around the equals sign; RFC 9112 section 7.1.1 allows them all
    # Trailers are dropped here, so none of them can be about framing; llhttp reads each as if it were in the head.
    re.compile(rb"\r\n(content-length|transfer-encoding|connection|upgrade|proxy-connection):", re.IGNORECASE),
)


@given(mutated())
@example(b"1;a=b\r\nx\r\n0\r\nA: b\r\n\r\n")
@example(b"1 \r\nx\r\n0\r\n\r\n")
def test_whatever_is_accepted_httptools_reads_the_same_way_but_for_explained_differences(message: bytes) -> None:
    ours = outcome(message)
    if isinstance(ours, str):
        return
    content, rest = ours
    if any(pattern.search(message) for pattern in EXPLAINED):
        return
    assert judged(message) == (content, rest is not None)


@pytest.mark.parametrize(
    ("size_line", "content"),
    [
        (b"1", b"x"),
        (b"000000000000001", b"x"),
        (b"A", b"0123456789"),
        (b"a", b"0123456789"),
        (b"1 ", b"x"),
        (b"1\t;a", b"x"),
        (b"1 ; a = b ; c", b"x"),
        (b"1;a;b;c=d", b"x"),
        (b'1;a="b;\\"\\\\\t\xc3\xa4";c=""', b"x"),
        (b"1;" + b"a" * (MAX_SIZE_LINE - 4), b"x"),
    ],
)
def test_legal_size_lines(size_line: bytes, content: bytes) -> None:
    message = size_line + b"\r\n" + content + b"\r\n"
    assert decoded(message + LAST + b"next") == (content, b"next")
    assert decoded(*bytewise(message + LAST)) == (content, b"")
    empty = re.sub(rb"^[0-9A-Fa-f]+", b"0", size_line) + b"\r\n\r\n"
    assert decoded(empty + b"next") == (b"", b"next")


ILLEGAL = [  # each ends with the byte that is wrong
    b"\r",
    b"\n",
    b" ",
    b"-",
    b"+",
    b"0x",
    b"1_",
    b"g",
    b";",
    b"0000000000000000",
    b"1\n",
    b"1\rx",
    b"1\r\r",
    b"1 2",
    b"1\0",
    b"1\x0b",
    b"1;\r",
    b"1;;",
    b"1;=",
    b"1;a\n",
    b"1;a\rb",
    b"1;a\0",
    b"1;a \r",
    b"1;a b",
    b"1;a=\r",
    b"1;a=;",
    b"1;a=b \r",
    b"1;a=b c",
    b"1;a=b=",
    b'1;a="\r',
    b'1;a="\n',
    b'1;a="\0',
    b'1;a="\x7f',
    b'1;a="\\\x01',
    b'1;a="b"c',
    b'1;a=b"',
    b"1;\xe4",
    b"1;" + b"a" * (MAX_SIZE_LINE - 3) + b"\r",
    b'1;a="' + b"a" * (MAX_SIZE_LINE - 5),
    b"1\r\nxy",
    b"1\r\nx\n",
    b"1\r\nx\rx",
    b"1\r\nx\r\n\r",
    b"0\n",
    b"0\r\n\n",
    b"0\r\n\rx",
    b"0\r\n ",
    b"0\r\n\t",
    b"0\r\n:",
    b"0\r\nfoo\r",
    b"0\r\nGET ",
    b"0\r\na ",
    b"0\r\n\xe4",
    b"0\r\na:\0",
    b"0\r\na:\x7f",
    b"0\r\na:b\n",
    b"0\r\na:b\rc",
    b"0\r\na:b\r\n ",
    b"0\r\na:" + b"b" * (MAX_TRAILER - 3) + b"\r",
    b"0\r\n" + b"a" * MAX_TRAILER,
    b"0\r\n" + b"a:\r\n" * (MAX_TRAILER_FIELDS + 1),
    b"0\r\n" + (b"a:" + b"b" * (MAX_TRAILER - 4) + b"\r\n") * (MAX_TRAILERS // MAX_TRAILER) + b"a:\r\n",
]


@pytest.mark.parametrize("message", ILLEGAL)
def test_what_is_illegal_is_refused_at_the_byte_that_is_wrong_and_not_before(message: bytes) -> None:
    body = ChunkedBody()
    for byte in bytewise(message[:-1]):
        assert body.feed(byte) is None
    with pytest.raises(ValueError, match=r"^(a|the) .*[^.]$"):
        body.feed(message[-1:])
    assert decoded(message[:-1])[1] is None
    assert isinstance(outcome(message), str)


def test_trailers_up_to_their_limits_are_dropped() -> None:
    longest = b"a:" + b"b" * (MAX_TRAILER - 4) + b"\r\n"
    assert decoded(b"0\r\n" + longest * (MAX_TRAILERS // MAX_TRAILER) + b"\r\nnext") == (b"", b"next")
    assert decoded(b"0\r\n" + b"a:\r\n" * MAX_TRAILER_FIELDS + b"\r\nnext") == (b"", b"next")
    forged = b"0\r\nTransfer-Encoding: x\r\nHost: evil\r\nContent-Length: 5\r\n\r\nnext"
    assert decoded(forged) == (b"", b"next")


def test_whoever_feeds_may_take_the_pieces() -> None:
    body = ChunkedBody()
    body.feed(b"5\r\nhel")
    assert body.pieces == [b"hel"]
    body.pieces.clear()
    assert body.feed(b"lo\r\n1\r\n!\r\n0\r\n\r\nnext") == b"next"
    assert (body.pieces, body.size) == ([b"lo!"], 6)


def test_a_large_chunk_is_passed_on_without_a_copy() -> None:
    body = ChunkedBody()
    segment = b"x" * 100_000
    body.feed(b"fffffff\r\n")
    body.feed(segment)
    assert body.pieces[0] is segment


def test_an_empty_segment_changes_nothing() -> None:
    body = ChunkedBody()
    for segment in (b"", b"1", b"", b"\r\n", b"", b"x", b"", b"\r\n", b""):
        assert body.feed(segment) is None
    assert body.feed(LAST) == b""
