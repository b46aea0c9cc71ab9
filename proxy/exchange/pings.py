"""What keeps a client that asked for a stream from giving up: a head before anybody answers, and comments. Pure.

They cost the status. Whatever comes of the request afterwards stands in a stream that began with 200: an error is an
event of it.
"""

from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.exchange.own_answer import stream_head_bytes

PING = b"8\r\n: ping\n\n\r\n"
_PATHS = frozenset(
    f"{prefix}/{name}"
    for prefix in ("/v1", "")
    for name in ("chat/completions", "completions", "responses", "messages")
)
_TOLD = b"x-slotproxy-"


def may_begin(request: RequestHead) -> bool:
    """Whether a request that says `stream: true` can be answered by a stream of chunks before it is served."""
    return request.http11 and request.path in _PATHS


def beginning(request_id: str, own: bytes, *, keep_alive: bool) -> bytes:
    """The head, and a first comment. `own`: finished header lines."""
    return stream_head_bytes(request_id, own=own, keep_alive=keep_alive) + PING


def told(own: bytes) -> bytes:
    """What of these header lines the head could not say yet, as a chunk of comments."""
    lines = [b": %b\n" % line for line in own.split(b"\r\n") if line.startswith(_TOLD)]
    comments = b"".join(lines) + b"\n"
    return b"%x\r\n%b\r\n" % (len(comments), comments)
