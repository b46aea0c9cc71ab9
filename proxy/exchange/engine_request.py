"""The bytes of a request as an engine gets them. Pure."""

from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.headers import CREDENTIALS, NOT_TO_ENGINE, Dropped, nominated

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class Recipe:
    """How the requests of any client are written for one upstream."""

    __slots__ = ("_base", "_defaults", "_dropped", "_host", "_own")

    def __init__(self, upstream: Upstream, *, strip_credentials: bool) -> None:
        extra = upstream.extra_headers
        names = NOT_TO_ENGINE | upstream.drop_headers | {name.lower() for name, _ in extra}
        self._dropped = Dropped(names | CREDENTIALS if strip_credentials else names)
        self._base = upstream.base_path.encode()
        self._host = b" HTTP/1.1\r\nHost: %b\r\n" % upstream.authority.encode()
        self._own = b"".join(b"%b: %b\r\n" % field for field in extra)
        self._defaults = upstream.default_headers

    def request(self, head: RequestHead, body: bytes, request_id: bytes) -> bytes:
        """All of the request; the body is framed by its length."""
        fields, dropped = head.fields, self._dropped
        if b"connection" in head.named:
            named = nominated(fields)
            if not named <= dropped.names:
                dropped = Dropped(dropped.names | named)
        lines = [b"%b %b%b%b" % (head.method.encode(), self._base, head.target, self._host)]
        lines += [b"%b: %b\r\n" % field for field in fields if not dropped[field[0]]]
        lines.append(self._own)
        if self._defaults:
            given = {name.lower() for name, _ in fields}
            lines += [b"%b: %b\r\n" % field for field in self._defaults if field[0] not in given]
        if body or head.method not in _BODILESS:
            lines.append(b"x-request-id: %b\r\nContent-Length: %d\r\n\r\n" % (request_id, len(body)))
            lines.append(body)
        else:
            lines.append(b"x-request-id: %b\r\n\r\n" % request_id)
        return b"".join(lines)
