"""Which bodies are looked into; what is refused of one is in test_json_body.py and, with whole requests, elsewhere."""

import pytest

from slotproxy.proxy.clients import bodies
from slotproxy.proxy.clients.head import HeadReader, RequestHead
from slotproxy.proxy.clients.json_body import NOTHING, SMALL, at_once
from slotproxy.proxy.errors import Refusal

CHAT = b"/v1/chat/completions"
BROKEN = b'{"stream":'


def head(path: bytes = CHAT, fields: bytes = b"", method: bytes = b"POST") -> RequestHead:
    reader = HeadReader()
    assert reader.read(b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, path, fields)) == b""
    assert reader.head is not None
    return reader.head


def test_a_body_of_a_path_for_generations_has_to_be_a_json_object_and_says_whether_it_wants_a_stream() -> None:
    wanted = bodies.at_a_glance(head(), b'{"stream": true}')
    assert wanted is not None
    assert wanted.streaming
    with pytest.raises(Refusal):
        bodies.at_a_glance(head(), BROKEN)


@pytest.mark.parametrize(
    ("path", "fields", "method"),
    [
        (CHAT, b"Content-Encoding: gzip\r\n", b"POST"),
        (CHAT, b"Content-Type: multipart/form-data; boundary=x\r\n", b"POST"),
        (b"/v1/files", b"Content-Type: application/octet-stream\r\n", b"POST"),
        (CHAT, b"", b"PUT"),
    ],
)
def test_what_only_the_engine_can_judge_passes(path: bytes, fields: bytes, method: bytes) -> None:
    assert bodies.at_a_glance(head(path, fields, method), b"\xff{") is NOTHING


def test_other_json_has_to_be_text_and_is_no_further_looked_into() -> None:
    other = head(b"/v1/other", b"Content-Type: application/json\r\n")
    assert bodies.at_a_glance(other, BROKEN) is NOTHING
    with pytest.raises(Refusal, match="not UTF-8"):
        bodies.at_a_glance(other, b'"\xff"')


@pytest.mark.parametrize("path", [CHAT, b"/v1/other"])
def test_a_large_body_is_looked_at_in_steps_and_to_the_same_end(path: bytes) -> None:
    request = head(path, b"Content-Type: application/json\r\n")
    body = b'{"stream": true, "text": "%b"}' % ("\u00e4".encode() * SMALL)
    assert bodies.at_a_glance(request, body) is None
    assert at_once(bodies.looked_at(request, body)).streaming is (path == CHAT)
