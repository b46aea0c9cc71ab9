import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy import headers


def test_an_answer_keeps_what_the_engine_said_but_for_hops_and_its_cors() -> None:
    fields = (
        (b"Server", b"llama.cpp"), (b"Content-Type", b"text/plain"), (b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"),
        (b"Keep-Alive", b"timeout=5"), (b"Access-Control-Allow-Origin", b"*"),
    )  # fmt: skip
    head = headers.engine_head(200, b"OK", fields)
    assert head.lines == b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/plain\r\n"
    assert not head.is_stream


def test_what_another_slotproxy_says_of_its_own_instances_and_queue_does_not_pass() -> None:
    names = [b"X-Slotproxy-Instance", b"x-slotproxy-queue-ms", b"x-slotproxy-queue-position", b"x-slotproxy-affinity"]
    assert headers.engine_head(200, b"OK", tuple((name, b"1") for name in names)).lines == b"HTTP/1.1 200 OK\r\n"


def test_an_event_stream_is_told_by_its_content_type() -> None:
    assert headers.engine_head(200, b"", ((b"content-type", b"Text/Event-Stream; charset=utf-8"),)).is_stream


def test_a_status_without_a_reason_gets_the_usual_one() -> None:
    assert headers.engine_head(404, b"", ()).lines == b"HTTP/1.1 404 Not Found\r\n"


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_no_field_of_an_engine_can_add_a_line_to_the_answer(name: bytes, value: bytes) -> None:
    try:
        head = headers.engine_head(200, b"OK", ((name, value),)).lines
    except ValueError:
        return
    assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r") <= 2


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1:8080", "[::1]:80", "a.example:1", "[fe80::1%25en0]"])
def test_valid_hosts(host: str) -> None:
    assert headers.valid_host(host)


@pytest.mark.parametrize("host", ["a b", "a,b", "u@h", "h:abc", "h:123456", "h\0", "h/x", "[::1", "h:1:2"])
def test_invalid_hosts(host: str) -> None:
    assert not headers.valid_host(host)


def test_the_name_of_a_host_is_without_port_and_lower_case() -> None:
    assert headers.host_name("LocalHost:80") == "localhost"
    assert headers.host_name("[::1]:80") == "[::1]"


def test_a_request_id_is_echoed_only_if_it_is_short_and_printable() -> None:
    assert headers.valid_request_id(b"abc-123")
    for bad in (b"", b"a b", b"a\nb", b"\xfc", b"x" * 129):
        assert not headers.valid_request_id(bad)
