"""What the fake engine was sent, what it can be told to do with it, and the bytes of its answers."""

import base64
import json
import os
import random
from dataclasses import dataclass, field, fields
from typing import Any, Self

# Answers that no well-behaved engine gives, as the bytes that go out; the connection is closed after them.
RAW = {
    "empty-200": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
    "half-head": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "garbage": b"\x16\x03\x01 this is no HTTP at all\r\n\r\n",
    "length-too-long": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"short":true}',
    "length-too-short": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
    "length-twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\n{}abc",
    "length-negative": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
    "length-and-chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    "bad-chunk-size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\nwhat\r\n0\r\n\r\n",
    "bad-chunk-at-once": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nwhat\r\n0\r\n\r\n",
    "no-last-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "huge-head": b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"a" * 400_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "many-headers": b"HTTP/1.1 200 OK\r\n" + b"X-Filler: 1\r\n" * 30_000 + b"Content-Length: 2\r\n\r\n{}",
    "control-byte": b"HTTP/1.1 200 OK\r\nX-Bad: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "early-hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "status-999": b"HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\n{}",
    "http-2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
}


@dataclass(kw_only=True)
class Behaviour:
    """What one request gets. Seconds, bytes and events."""

    delay: float = 0.0  # before the head
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None  # instead of a completion
    size: int = 0  # a JSON body of so many bytes
    events: int | None = None  # a stream of so many events; None: a stream if the request asks for one
    gap: float = 0.0  # between events
    drip: float = 0.0  # between the single bytes of head and body
    padding: int = 0  # more bytes in each event
    usage: bool = True  # the usage chunk before [DONE]
    cuts: int | None = None  # seed: the body leaves in arbitrary pieces, each a chunk and a write
    framing: str = "chunked"  # of a stream: chunked, length, close (HTTP/1.0)
    raw: str | None = None  # a name of RAW
    fail: str | None = None  # hang, die, reset, close
    ping: float = 0.0  # seconds between the comments of a stream that hangs; 0: it says nothing
    after: int = -1  # so many events, then `fail`; -1: before the head
    only_first: str | None = None  # path: `fail` and `raw` only for whoever creates that file first
    compute: float = 0.0  # seconds it goes on computing when the client has left
    last: bool = False  # closes the connection after the answer without having said so
    surplus: str = ""  # bytes that follow the answer on the connection, which stays open
    drop_reused: bool = False  # a later request on a connection: closed without an answer

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        unknown = set(told) - {known.name for known in fields(cls)}
        if unknown:
            raise ValueError(f"unknown behaviour {unknown}")
        return cls(**told)

    def misbehaves(self) -> bool:
        """Whether this request is the one that `fail` and `raw` are for."""
        if self.only_first is None:
            return True
        try:
            os.close(os.open(self.only_first, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


@dataclass(kw_only=True)
class Received:
    """One request as it came, and what became of it."""

    head: bytes
    body: bytes
    connection: int
    began: float
    ended: float | None = None
    cancelled: bool = False  # the client had left before the answer was out
    sent: bytearray = field(default_factory=bytearray)  # the answer's body, without framing

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    def json(self) -> Any:
        return json.loads(self.body)

    def told(self) -> dict[str, Any] | None:
        """How this request asks to be treated."""
        if "x-fake" in self.headers:
            return dict(json.loads(self.headers["x-fake"]))
        try:
            found = self.json()["fake"]
        except (ValueError, KeyError, TypeError):
            return None
        return dict(found)

    def report(self) -> dict[str, Any]:
        """For GET /fake/received."""
        texts = {"head": self.head.decode("latin-1"), "body": base64.b64encode(self.body).decode()}
        rest = {"connection": self.connection, "began": self.began, "ended": self.ended, "cancelled": self.cancelled}
        return texts | rest | {"sent": base64.b64encode(self.sent).decode()}


def answer(status: int, value: object) -> bytes:
    body = json.dumps(value).encode()
    return head(status, {"Content-Type": "application/json", "Content-Length": str(len(body))}) + body


def head(status: int, extra: dict[str, str], version: str = "HTTP/1.1") -> bytes:
    lines = [f"{version} {status} Whatever", *(f"{name}: {value}" for name, value in extra.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def completion(name: str) -> bytes:
    message = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": name, "choices": [message], "usage": usage}
    return json.dumps(answer).encode()


def whole(name: str, behaviour: Behaviour) -> bytes:
    """The body of an answer that is no stream."""
    if behaviour.size:
        return json.dumps({"filler": "x" * (behaviour.size - 13)}, separators=(",", ":")).encode()
    return completion(name) if behaviour.body is None else behaviour.body.encode()


def events(name: str, behaviour: Behaviour) -> list[bytes]:
    """Chat chunks in OpenAI's shape."""
    count = 8 if behaviour.events is None else behaviour.events
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": name}
    texts = [f"t{number} " + "x" * behaviour.padding for number in range(count)]
    chunks = [base | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if behaviour.usage:
        usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
        chunks.append(base | {"choices": [], "usage": usage})
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]


def pieces(data: bytes, seed: int | None) -> list[bytes]:
    if seed is None:
        return [data]
    dice = random.Random(seed)
    pieces = []
    while data:
        size = dice.choice((1, 1, 2, 3, 7, 20, 100, 1000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces
