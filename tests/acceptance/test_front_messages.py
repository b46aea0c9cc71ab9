"""Single messages at the client's side: what is served, what is refused and how, and where the connection ends."""

from collections.abc import Iterator

import pytest

from tests.acceptance.standing import Standing, assert_refused, standing, statuses, talk
from tests.clients import request

MAX_BODY = 1 << 20  # bytes
CLOSE = b"Connection: close\r\n"
HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing(tmp_path_factory.mktemp("messages"), "--max-body", str(MAX_BODY)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(bench: Standing) -> None:
    bench.engine.seen.clear()


@pytest.mark.parametrize(
    ("coding", "allowed"),
    [
        (b"Transfer-Encoding: gzip, chunked\r\n", {501}),
        (b"Transfer-Encoding: cow, chunked\r\n", {501}),
        (b"Transfer-Encoding: gzip\r\n", {400, 501}),  # nothing says where it ends
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", {400, 501}),
    ],
)
async def test_a_transfer_coding_other_than_chunked_is_501_and_the_end(
    bench: Standing, coding: bytes, allowed: set[int]
) -> None:
    head = b"POST /c HTTP/1.1\r\n" + HOST + coding + b"\r\n"
    (answer,) = await talk(bench, head + b"5\r\nhello\r\n0\r\n\r\n" + GET)
    assert_refused(answer, *allowed)
    assert bench.take() == []


@pytest.mark.parametrize("size", [b"1000000000000000", b"0000000000000001", b"fffffffffffffffff"])
@pytest.mark.parametrize("first", [b"", b"5\r\nhello\r\n"])
async def test_a_chunk_size_of_over_15_digits_is_400_before_more_arrives(
    bench: Standing, size: bytes, first: bytes
) -> None:
    for pieces in ((CHUNKED + b"\r\n" + first + size,), (CHUNKED + b"\r\n", first + size[:3], size[3:])):
        (answer,) = await talk(bench, *pieces)
        assert_refused(answer, 400)


async def test_a_chunk_size_of_15_digits_passes(bench: Standing) -> None:
    await talk(bench, CHUNKED + CLOSE + b"\r\n" + b"000000000000005\r\nhello\r\n0\r\n\r\n")
    assert [seen.body for seen in bench.take()] == [b"hello"]


@pytest.mark.parametrize("line", [b"5; a=b", b"5 ;a=b", b'5;a = "b c"', b"0005;\ta=b"])
async def test_chunk_extensions_may_hold_blanks(bench: Standing, line: bytes) -> None:
    await assert_overlooked(bench, line)


@pytest.mark.parametrize("line", [b"5;a", b"5;a=b", b"5;a;b;c=d", b'5;a="b c"', b"5;" + b"a" * 1000])
async def test_chunk_extensions_are_overlooked(bench: Standing, line: bytes) -> None:
    await assert_overlooked(bench, line)


async def assert_overlooked(bench: Standing, line: bytes) -> None:
    (answer,) = await talk(bench, CHUNKED + CLOSE + b"\r\n" + line + b"\r\nhello\r\n0\r\n\r\n")
    assert answer.status == 200
    assert [seen.body for seen in bench.take()] == [b"hello"]


@pytest.mark.parametrize("coding", [b" chunked\t", b"\tchunked", b"chunked", b" Chunked", b" chunked \t "])
async def test_chunked_may_be_written_with_blanks_around_it(bench: Standing, coding: bytes) -> None:
    head = b"POST /c HTTP/1.1\r\n" + HOST + CLOSE + b"Transfer-Encoding:" + coding + b"\r\n\r\n"
    (answer,) = await talk(bench, head + b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.status == 200
    assert [seen.body for seen in bench.take()] == [b"hello"]


@pytest.mark.parametrize("host", ["127.0.0.1:", "localhost.", "localhost.:80", "LOCALHOST:65535", "[::1]:", ""])
async def test_hosts_that_mean_this_machine_pass(bench: Standing, host: str) -> None:
    (answer,) = await talk(bench, f"GET /h HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.status == 200, answer


@pytest.mark.parametrize(
    ("target", "as_the_engine_sees_it"),
    [
        ("http://127.0.0.1:{port}?x=1", "/?x=1"),
        ("http://127.0.0.1:{port}", "/"),
        ("HTTP://LOCALHOST/x", "/x"),
        ("https://localhost./x//y?u=http://a/", "/x//y?u=http://a/"),
    ],
)
async def test_a_target_may_be_absolute(bench: Standing, target: str, as_the_engine_sees_it: str) -> None:
    line = f"GET {target.format(port=bench.port)} HTTP/1.1\r\n".encode()
    (answer,) = await talk(bench, line + HOST + CLOSE + b"\r\n")
    assert answer.status == 200, answer
    assert [seen.target.decode() for seen in bench.take()] == [as_the_engine_sees_it]


@pytest.mark.parametrize(
    "target", [b"http:///x", b"http://:80/x", b"http://://x", b"http://u@127.0.0.1/", b"ftp://127.0.0.1/"]
)
async def test_an_absolute_target_has_to_name_a_host_of_http(bench: Standing, target: bytes) -> None:
    (answer,) = await talk(bench, b"GET " + target + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    assert_refused(answer, 400)
    assert bench.take() == []


async def test_options_of_the_whole_server_are_answered(bench: Standing) -> None:
    (answer,) = await talk(bench, b"OPTIONS * HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    assert answer.status in (200, 204), answer


@pytest.mark.parametrize(
    "target", [b"http://evil.example/", b"http://evil.example:80/health", b"https://127.0.0.1.evil"]
)
async def test_the_authority_of_an_absolute_target_is_held_to_the_rules_for_hosts(
    bench: Standing, target: bytes
) -> None:
    (answer,) = await talk(bench, b"GET " + target + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    assert (answer.status, answer.code) == (403, "host_not_allowed")
    assert bench.take() == []


GARBAGE = (b"GARBAGE\r\n\r\n", b"\0\1\2", b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n", b"G@T / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_request_before_garbage_is_served_first(bench: Standing, garbage: bytes) -> None:
    for before in (GET, GET + GET, request("POST", "/p", b"{}")):
        *served, refused = await talk(bench, before + garbage)
        assert set(statuses(served)) == {200}
        assert_refused(refused, 400)
        assert len(bench.take()) == len(served) == before.count(b"HTTP/1.1")


@pytest.mark.parametrize("after", [*GARBAGE, GET, b"x"])
@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_whatever_follows_the_last_request_of_a_connection_is_not_read(
    bench: Standing, after: bytes, body: bytes
) -> None:
    last = b"POST /l HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert statuses(await talk(bench, last + after)) == [200]
    assert [seen.target for seen in bench.take()] == [b"/l"]


@pytest.mark.parametrize(
    "line",
    [b"OPTIONS /r RTSP/1.0", b"GET /r RTSP/1.0", b"DESCRIBE rtsp://127.0.0.1/r RTSP/1.0", b"SOURCE /r ICE/1.0"],
)
@pytest.mark.parametrize("before", [b"", GET, request("POST", "/p", b"{}")], ids=["first", "after GET", "after POST"])
async def test_a_start_line_of_another_protocol_is_refused_wherever_it_comes(
    bench: Standing, line: bytes, before: bytes
) -> None:
    stranger = line + b"\r\n" + HOST + b"\r\n"
    for pieces in ((before + stranger,), (before, stranger), (before + stranger[:-30], stranger[-30:])):
        *served, refused = await talk(bench, *pieces)
        assert_refused(refused, 400, 405, 501, 505)
        assert len(bench.take()) == len(served) == bool(before)


MALFORMED = {
    "no start line": b"\0\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a field without a colon": b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n",
    "a blank in a field's name": b"GET / HTTP/1.1\r\n" + HOST + b"X Y: 1\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\n" + HOST + b"X : 1\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n 2\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
    "a bare CR": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "no Host, an absolute target": b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "a length that is no number": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1x\r\n\r\n",
    "a signed length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\n{",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "both framings": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "a chunk size that is no number": CHUNKED + b"\r\nxyz\r\n",
    "a chunk longer than its size": CHUNKED + b"\r\n2\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_gets_an_error_object_of_ours(bench: Standing, data: bytes) -> None:
    (answer,) = await talk(bench, data)
    assert_refused(answer, 400, 405, 501, 505)
    assert bench.take() == []


@pytest.mark.parametrize("data", [data for data in MALFORMED.values() if data.startswith(CHUNKED)])
async def test_a_body_that_turns_out_malformed_later_gets_one_too(bench: Standing, data: bytes) -> None:
    head, end, body = data.partition(b"\r\n\r\n")
    (answer,) = await talk(bench, head + end, body)
    assert_refused(answer, 400)
    assert bench.take() == []


def with_fields(*lines: bytes) -> bytes:
    return b"GET /f HTTP/1.1\r\n" + HOST + CLOSE + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


LINE, TOGETHER, FIELDS = 16 << 10, 64 << 10, 100  # bytes, bytes, and fields of one head, at most
BELOW = {
    "a field": with_fields(b"X: ".ljust(LINE - 64, b"a")),
    "a target": b"GET /" + b"t" * (LINE - 64) + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "together": with_fields(*[b"X: ".ljust((TOGETHER - 512) // 5, b"a")] * 5),
    "fields": with_fields(*[b"X: 1"] * (FIELDS - 2)),
}
ABOVE = {
    "a field": with_fields(b"Authorization: Bearer secret-k1".ljust(LINE + 64, b"a")),
    "a name": with_fields(b"secret-k1".ljust(LINE + 64, b"a") + b": 1"),
    "a target": b"GET /secret-k1" + b"t" * LINE + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "a method": b"secret-k1".ljust(LINE + 64, b"A"),
    "together": with_fields(*[b"X: secret-k1".ljust(TOGETHER // 5 + 512, b"a")] * 5),
    "fields": with_fields(*[b"X: secret-k1"] * (FIELDS - 1)),
    "without end": b"GET / HTTP/1.1\r\n" + HOST + b"Cookie: secret-k1".ljust(TOGETHER, b"a"),
}


@pytest.mark.parametrize("data", BELOW.values(), ids=BELOW)
async def test_a_head_just_within_the_limits_passes(bench: Standing, data: bytes) -> None:
    for pieces in ((data,), (data[:9000], data[9000:])):
        (answer,) = await talk(bench, *pieces)
        assert answer.status == 200, answer
    assert len(bench.take()) == 2


@pytest.mark.parametrize("data", ABOVE.values(), ids=ABOVE)
async def test_a_head_beyond_the_limits_is_refused_and_not_sent_back(bench: Standing, data: bytes) -> None:
    for pieces in ((data,), (data[:9000], data[9000:])):
        (answer,) = await talk(bench, *pieces)
        assert_refused(answer, 400, 414, 431)
        assert b"secret-k1" not in answer.body
    assert bench.take() == []


@pytest.mark.parametrize("count", [5, 2000])
async def test_trailers_are_bounded_like_a_head(bench: Standing, count: int) -> None:
    (answer,) = await talk(bench, CHUNKED + CLOSE + b"\r\n0\r\n" + b"X-Trailer: and its value\r\n" * count + b"\r\n")
    assert answer.status == 200 if count == 5 else answer.status in (400, 431)
