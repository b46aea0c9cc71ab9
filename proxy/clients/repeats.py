"""Requests whose head came before: told by its bytes, and handled by what was made of it the first time.

Until the parser has seen a head, and after a request that it cannot tell the end of in advance, it gets every byte.
"""

import asyncio
from typing import Any, NamedTuple

from aiohttp import hdrs
from aiohttp.http import HttpVersion11, RawRequestMessage

from slotproxy.proxy.engines.heads import KnownRequests, head_size
from slotproxy.proxy.clients.turns import Repeat, Turns

HOLD = 0.02  # seconds in which the body follows its head, where a client sends them one after the other


class Known(NamedTuple):
    """What is known of a request's head."""

    made: Any
    message: RawRequestMessage


class Repeats(Turns):
    """A client connection that asks `known` before it asks the parser."""

    __slots__ = ("_held", "_known", "_missing", "_parsed", "_released")

    def __init__(self, *args: Any, known: KnownRequests[Known], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known = known
        self._held = b""  # a known head and a part of its body, which the parser has not seen
        self._released: asyncio.TimerHandle | None = None  # when it will
        # Bytes that the parser has still to get of its latest request; None: nobody knows where that one ends.
        self._missing: int | None = 0
        self._parsed: tuple[RawRequestMessage, bytes] | None = None  # the latest request, and its head

    def remember(self, message: RawRequestMessage, made: object) -> None:
        """Requests with the same head may be handled by what was `made` of this one's; called as soon as it was."""
        parsed, self._parsed = self._parsed, None
        if parsed is not None and parsed[0] is message and _may_repeat(message):
            length = int(message.headers[hdrs.CONTENT_LENGTH])
            self._known.add(parsed[1], length, Known(made, message))

    def connection_lost(self, error: BaseException | None) -> None:
        self._take_held()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        held = self._take_held()
        if held:
            data = held + data
        if self._missing == 0 and self.may_repeat:
            found = self._known.recognise(data)
            if found is not None:
                (made, message), begin, end = found
                if len(data) == end:
                    self.repeat(Repeat(made, message, data[begin:]))
                    return
                if len(data) < end and not held:
                    self._held = data
                    self._released = self._loop.call_later(HOLD, self._release)
                    return
        self.parse(data)

    def parse(self, data: bytes) -> None:
        """Give `data` to the parser."""
        before = self._request_count
        super().data_received(data)
        self._locate(data, self._request_count - before)

    def _take_held(self) -> bytes:
        if self._released is not None:
            self._released.cancel()
            self._released = None
        held, self._held = self._held, b""
        return held

    def _release(self) -> None:
        """The rest of a body did not come soon: it has all the time that bodies have, but not here."""
        self.parse(self._take_held())

    def _locate(self, data: bytes, requests: int) -> None:
        """Keep account of where the parser is, after it found so many requests in `data`."""
        missing = self._missing
        if missing == 0 and data:
            self._parsed = missing = None
            message = self._messages[-1][0] if requests == 1 and self._messages else None
            size = head_size(data)
            if isinstance(message, RawRequestMessage) and size is not None and _is_counted(message, data):
                self._parsed = message, data[:size]
                missing = size + int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
        if missing is not None:
            missing -= len(data)
            self._missing = missing if missing >= 0 else None
        else:
            self._missing = None


def _is_counted(message: RawRequestMessage, data: bytes) -> bool:
    """Whether nothing but Content-Length says where `message` ends, which begins with the first byte of `data`."""
    return not (message.chunked or message.upgrade) and data.startswith(message.method.encode())


def _may_repeat(message: RawRequestMessage) -> bool:
    """Whether the length of its body is all that a parser need say of another request with this head."""
    headers = message.headers
    one_length = len(headers.getall(hdrs.CONTENT_LENGTH, [])) == 1
    closes = message.should_close or message.version != HttpVersion11
    return one_length and not (closes or message.chunked or message.upgrade or hdrs.EXPECT in headers)
