import asyncio
import itertools
from typing import cast

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.accounts.meter import MANY
from slotproxy.proxy.engines import relay
from slotproxy.proxy.engines.failure import Failure, Kind
from slotproxy.proxy.engines.heads import Head
from slotproxy.proxy.engines.idle import IdleConnections
from slotproxy.proxy.engines.relay import EngineConnection
from slotproxy.proxy.headers import Field

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STYLES = (b"%x\r\n", b"%X\r\n", b"%04x\r\n", b"%x;name=value\r\n")


class FakeTransport:
    """As much of one as an EngineConnection uses."""

    def __init__(self) -> None:
        self.closed = False
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.closed = True

    close = abort


class Recorder:
    """A sink that remembers, and the outlet for what passes by it."""

    def __init__(self) -> None:
        self.client = FakeTransport()
        self.transport: asyncio.Transport | None = cast(asyncio.Transport, self.client)
        self.passed: list[bytes] = []
        self.status = 0
        self.fields: tuple[Field, ...] = ()
        self.length: int | None = None
        self.body = b""
        self.completed = self.ended = 0
        self.failures: list[Failure] = []

    def head(self, head: Head, length: int | None) -> None:
        self.status, self.fields, self.length = head.status, head.fields, length

    def whole(self, head: Head, body: bytes) -> None:
        self.head(head, len(body))
        self.receive(body, True)

    def receive(self, data: bytes, complete: bool) -> None:
        assert not self.completed
        self.settle()
        self.body += data
        self.completed += complete

    def over(self) -> None:
        assert self.completed
        self.ended += 1

    def settle(self) -> None:
        assert len(self.passed) <= MANY
        self.body += b"".join(self.passed)
        self.passed.clear()

    def closed(self) -> None:
        self.receive(b"", True)

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)


def exchange(segments: list[bytes], *, head_only: bool = False) -> tuple[Recorder, FakeTransport, EngineConnection]:
    """What a sink hears of an answer that comes in these segments."""
    transport, sink = FakeTransport(), Recorder()
    connection = EngineConnection(Upstream(instance="0", host="h", port=1), IdleConnections())
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.send(b"", b"", sink, head_only=head_only)
    connection.let_pass(sink, sink.passed)
    for segment in segments:
        connection.data_received(segment)
    return sink, transport, connection


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


@given(
    st.lists(st.tuples(st.sampled_from(STYLES), st.binary(min_size=1, max_size=30)), max_size=12),
    st.lists(st.integers(0, 1000), max_size=30),
    st.booleans(),
)
def test_the_body_does_not_depend_on_the_framing_nor_on_where_it_was_cut(
    chunks: list[tuple[bytes, bytes]], places: list[int], aligned: bool
) -> None:
    framed = [HEAD, *(style % len(content) + content + b"\r\n" for style, content in chunks), b"0\r\n\r\n"]
    sink, transport, _ = exchange(framed if aligned else cut(b"".join(framed), places))
    assert (sink.body, sink.completed, sink.failures) == (b"".join(content for _, content in chunks), 1, [])
    assert not transport.closed


CHUNKS = [b"1\r\na\r\n", b"2\r\nbc\r\n", b"3\r\ndef\r\n"]


def test_a_segment_that_is_one_chunk_passes_as_it_came_if_a_chunk_went_before() -> None:
    sink, _, _ = exchange([HEAD, *CHUNKS, b"0\r\n\r\n"])
    assert (sink.body, sink.client.written, sink.completed) == (b"abcdef", CHUNKS[1:], 1)


def test_none_passes_while_the_sink_is_to_be_asked_first() -> None:
    sink, _, connection = exchange([HEAD, CHUNKS[0]])
    connection.ask_first()
    connection.data_received(CHUNKS[1])
    assert (sink.body, sink.client.written) == (b"abc", [])
    connection.let_pass(sink, sink.passed)
    connection.data_received(CHUNKS[2])
    assert sink.client.written == [CHUNKS[2]]


def test_none_passes_for_the_next_request_unless_its_sink_says_so() -> None:
    first, _, connection = exchange([HEAD, *CHUNKS, b"0\r\n\r\n"])
    second = Recorder()
    connection.send(b"", b"", second)
    for segment in (HEAD, *CHUNKS, b"0\r\n\r\n"):
        connection.data_received(segment)
    assert (first.client.written, second.client.written, second.body) == (CHUNKS[1:], [], b"abcdef")


def test_what_passes_goes_nowhere_when_the_client_is_gone() -> None:
    sink, _, connection = exchange([HEAD, CHUNKS[0]])
    sink.transport = None
    connection.data_received(CHUNKS[1])
    assert (sink.client.written, sink.passed, sink.failures) == ([], [], [])


def test_pieces_of_what_passed_are_settled_when_there_are_many() -> None:
    sink, _, _ = exchange([HEAD, *[CHUNKS[0]] * (3 * MANY)])
    assert len(sink.passed) < MANY
    assert sink.body == b"a" * (3 * MANY - len(sink.passed))


@pytest.mark.parametrize("half", [b"1", b"1\r", b"1\r\n", b"1\r\na", b"1\r\na\r", b"5;x=\r\n"])
def test_what_looks_like_a_chunk_within_a_chunk_is_content(half: bytes) -> None:
    inner = b"1\r\na\r\n"
    framed = b"%x\r\n%b\r\n" % (len(inner), inner)
    opening = framed[: framed.index(b"\n") + 1]
    sink, _, _ = exchange([HEAD + b"1\r\nx\r\n", opening, inner, b"\r\n", b"0\r\n\r\n"])
    assert (sink.body, sink.client.written, sink.completed) == (b"x" + inner, [], 1)
    sink, _, _ = exchange([HEAD + b"1\r\nx\r\n" + half, inner])
    assert sink.client.written == []
    sink, _, connection = exchange([HEAD + b"1\r\nx\r\n" + half])
    connection.let_pass(sink, sink.passed)
    connection.data_received(inner)
    assert sink.client.written == []


@pytest.mark.parametrize(
    "end", [b"zz\r\n", b"\r\n", b"1\r\nab\r\n", b"-1\r\na\r\n", b"0\r\nbad trailer\r\n\r\n", b"HTTP/1.1 200 OK\r\n"]
)
def test_bad_framing_after_whole_chunks_ends_the_exchange(end: bytes) -> None:
    sink, transport, _ = exchange([HEAD, b"1\r\na\r\n", b"1\r\nb\r\n", end])
    assert [failure.kind for failure in sink.failures] == [Kind.MALFORMED]
    assert transport.closed


def test_an_answer_that_ends_between_two_chunks_is_not_whole() -> None:
    sink, _, connection = exchange([HEAD, b"1\r\na\r\n", b"1\r\nb\r\n"])
    connection.connection_lost(None)
    assert (sink.completed, [failure.kind for failure in sink.failures]) == (0, [Kind.RESET])


def test_a_whole_chunk_after_the_end_of_an_answer_is_not_handed_to_the_next() -> None:
    sink, transport, _ = exchange([HEAD, b"1\r\na\r\n", b"0\r\n\r\n", b"1\r\nb\r\n"])
    assert (sink.body, sink.completed) == (b"a", 1)
    assert transport.closed


PLAIN = b"HTTP/1.1 200 OK\r\nServer: %b\r\nContent-Length: %d\r\n\r\n%b"


@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(0, 1000), max_size=3))
def test_an_answer_with_a_known_head_is_the_one_that_a_parser_would_find(
    before: bytes, body: bytes, places: list[int]
) -> None:
    exchange([PLAIN % (b"known", len(before), before)])
    sink, transport, _ = exchange(cut(PLAIN % (b"known", len(body), body), places))
    assert (sink.status, sink.fields, sink.length) == (200, ((b"Server", b"known"),), len(body))
    assert (sink.body, sink.completed, sink.failures) == (body, 1, [])
    assert not transport.closed


def test_a_body_that_looks_like_a_head_is_not_remembered_as_one() -> None:
    trap = PLAIN % (b"trap", 5, b"hello")
    lines = PLAIN % (b"outer", len(trap), b"")
    exchange([lines, trap])
    exchange([lines + trap])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httptools, "HttpResponseParser", None)
        with pytest.raises(TypeError):
            exchange([trap])


def test_a_head_that_ends_the_connection_is_parsed_every_time() -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    for _ in range(3):
        sink, transport, _ = exchange([last])
        assert (sink.body, sink.completed, transport.closed) == (b"hi", 1, True)


def test_an_answer_to_head_has_no_body_although_its_head_is_known() -> None:
    exchange([PLAIN % (b"head", 2, b"hi")])
    sink, transport, _ = exchange([PLAIN % (b"head", 2, b"")], head_only=True)
    assert (sink.body, sink.completed, transport.closed) == (b"", 1, True)


def test_bytes_after_an_answer_end_the_connection_although_its_head_is_known() -> None:
    exchange([PLAIN % (b"more", 2, b"hi")])
    sink, transport, _ = exchange([PLAIN % (b"more", 2, b"hi") + b"!"])
    assert sink.body in (b"hi", b"")
    assert transport.closed


@pytest.mark.parametrize(
    ("used_before", "after", "kind"),
    [
        (True, 0.0, Kind.STALE),
        (True, 0.24, Kind.STALE),
        (True, 0.25, Kind.RESET),
        (True, 1.5, Kind.RESET),
        (False, 0.0, Kind.RESET),
    ],
)
def test_a_connection_was_stale_if_it_was_used_before_and_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, used_before: bool, after: float, kind: Kind
) -> None:
    now = 100.0
    monkeypatch.setattr(relay, "monotonic", lambda: now)
    sink, _, connection = exchange([PLAIN % (b"stale", 2, b"hi")] if used_before else [])
    if used_before:
        sink = Recorder()
        connection.send(b"", b"", sink)
    now += after
    connection.connection_lost(None)
    assert [failure.kind for failure in sink.failures] == [kind]
