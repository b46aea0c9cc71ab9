"""The bytes of a request as an engine gets them. Pure."""

from slotproxy.instances.upstream import VIA, Observer, Upstream
from slotproxy.proxy.clients.head import SPECIAL, RequestHead
from slotproxy.proxy.errors import QUEUE_POSITION
from slotproxy.proxy.headers import CREDENTIALS, NOT_TO_ENGINE

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class Recipe:
    """How the requests of any client are written for one upstream."""

    __slots__ = ("_defaults", "_dropped", "_host", "_looks_at_all", "_own", "_target", "_via", "observer", "told")

    def __init__(self, upstream: Upstream, observer: Observer | None = None, *, strip_credentials: bool) -> None:
        """`observer` is told of its answers; None: nobody wants to hear of them."""
        extra = upstream.extra_headers
        dropped = NOT_TO_ENGINE | upstream.drop_headers | {name.lower() for name, _ in extra}
        self._dropped = dropped | CREDENTIALS if strip_credentials else dropped
        self._looks_at_all = not self._dropped <= SPECIAL
        self.observer = observer
        self.told = b"x-slotproxy-instance: %b\r\nx-slotproxy-queue-ms: 0\r\n" % upstream.instance.encode()
        self._target = upstream.target
        self._via = upstream.via
        self._host = upstream.authority.encode()
        self._own = [b"%b: %b" % field for field in extra]
        self._defaults = upstream.default_headers

    def told_after(self, wait: float, position: int) -> bytes:
        """`told`, what a client is told of it, after so many seconds in the queue, which began behind `position`
        others.
        """
        told = self.told.replace(b"-ms: 0\r", b"-ms: %d\r" % round(wait * 1000))
        return b"%b%b: %d\r\n" % (told, QUEUE_POSITION.encode(), position)

    def head(self, head: RequestHead, length: int, request_id: bytes) -> bytes:
        """All of the request but its body, which has `length` bytes."""
        lines = head.written.get(self)
        if lines is None:
            lines = head.written[self] = self._written(head)
        if length or head.method not in _BODILESS:
            return b"%bx-request-id: %b\r\nContent-Length: %d\r\n\r\n" % (lines, request_id, length)
        return b"%bx-request-id: %b\r\n\r\n" % (lines, request_id)

    def _written(self, head: RequestHead) -> bytes:
        """Start line and fields, all but those of one request alone."""
        dropped, lines = self._dropped, head.lines
        if self._looks_at_all or head.nominated:
            dropped |= head.nominated
            lines = [line for line in lines if _name(line) not in dropped]
        parts = [b"%b %b HTTP/1.1\r\nHost: %b" % (head.method.encode(), self._target(head.target), self._host)]
        parts += lines
        parts += [line for name, line in head.special if name not in dropped]
        parts += self._own
        if self._via:
            before = [line.partition(b":")[2].strip() for name, line in head.special if name == VIA]
            parts.append(b"%b: %b" % (VIA, b", ".join([*before, self._via])))
        if self._defaults:
            given = {_name(line) for line in parts}
            parts += [b"%b: %b" % field for field in self._defaults if field[0] not in given]
        parts.append(b"")
        return b"\r\n".join(parts)


def _name(line: bytes) -> bytes:
    return line[: line.find(b":")].lower()
