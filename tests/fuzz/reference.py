"""What aiohttp's request parser makes of the same bytes: the second opinion.

It gets them one by one, and a new parser for each message: so what it has found before an error is not lost, and
nothing of one message can become a part of the next.
"""

import asyncio
from dataclasses import dataclass, field

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion, RawRequestMessage
from aiohttp.streams import StreamReader

MAX_LINE = 16 << 10  # bytes, as the front has it
MAX_FIELDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One whole request. `raw`: its bytes, and empty lines before it."""

    method: str
    target: bytes
    version: HttpVersion
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    should_close: bool
    raw: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for own, value in self.fields if own.lower() == name]


@dataclass(kw_only=True)
class Reading:
    """Of a connection: the whole requests, then why there is no further one. `rest`: the bytes after the last one."""

    messages: list[Message] = field(default_factory=list)
    error: str = ""
    rest: bytes = b""


def read(data: bytes) -> Reading:
    """As far as a connection may go on. Needs a running event loop."""
    found, begin = Reading(), 0
    while begin < len(data):
        size = _one(data[begin:], found)
        if size is None:
            break
        begin += size
        if found.messages[-1].should_close:
            break
    found.rest = data[begin:]
    return found


def _one(data: bytes, found: Reading) -> int | None:
    """The next message, put into `found`; the bytes it took, None if it did not end well."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(
        BaseProtocol(loop),
        loop,
        1 << 20,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_FIELDS,
        auto_decompress=False,
    )
    message: RawRequestMessage | None = None
    payload: StreamReader | None = None
    for place in range(len(data)):
        try:
            complete, _, _ = parser.feed_data(data[place : place + 1])
        except Exception as error:
            found.error = str(error)
            return None
        if complete:
            ((message, payload),) = complete
        if payload is not None and payload.exception() is not None:
            found.error = str(payload.exception())
            return None
        if message is not None and payload is not None and payload.is_eof():
            try:
                found.messages.append(_message(message, payload, data[: place + 1]))
            except AttributeError:  # it has no target, whatever its type says, and the parser does not mind
                found.error = "no target"
                return None
            return place + 1
    return None


def _message(message: RawRequestMessage, payload: StreamReader, raw: bytes) -> Message:
    return Message(
        method=message.method,
        target=message.path.encode("utf-8", "surrogateescape"),
        version=message.version,
        fields=tuple(message.raw_headers),
        body=payload.read_nowait(),
        should_close=message.should_close,
        raw=raw,
    )
