"""Which header fields pass, and the bytes of the heads we send. Pure.

Hop-by-hop fields (RFC 9110 section 7.6.1) never pass, nor does a field that `Connection` names. Framing is always our
own: the request goes on with Content-Length, the answer with Content-Length if the engine gave one, else chunked.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

Field = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade http2-settings".split()
)
NOT_TO_ENGINE = HOP_BY_HOP | frozenset(
    # accept-encoding: an engine that compressed would hide the token counts from the meter, and loopback gains nothing
    b"host content-length expect accept-encoding x-request-id x-slotproxy-priority x-slotproxy-via".split()
)
PRIORITY = b"x-slotproxy-priority"
SESSIONS = (  # clients name their conversation in them, and engines get them, too; the first that is there counts
    b"x-session-id",
    b"x-claude-code-session-id",
    b"x-session-affinity",  # OpenCode's
    b"session-id",
    b"session_id",  # Codex's
    b"x-conversation-id",
)
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})  # OpenAI's, Anthropic's, Azure's
NOT_TO_CLIENT = HOP_BY_HOP | frozenset(
    b"content-length x-request-id x-slotproxy-instance x-slotproxy-queue-ms x-slotproxy-queue-position "
    b"x-slotproxy-affinity".split()
)
CORS_PREFIX = b"access-control-"

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(%25[\w.~-]+)?\]|[\w.~-]*)(:\d{0,5})?", re.ASCII)
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def nominated(fields: Iterable[Field]) -> frozenset[bytes]:
    """The fields that `Connection` names, lower case."""
    return frozenset(
        token.strip().lower() for name, value in fields if name.lower() == b"connection" for token in value.split(b",")
    )


@dataclass(frozen=True, slots=True)
class EngineHead:
    """The part of an answer's head that is the engine's."""

    lines: bytes  # start line and fields, each with its line end
    is_stream: bool  # of server-sent events
    tells_limits: bool  # it has fields about rate limits


@lru_cache(maxsize=256)
def engine_head(status: int, reason: bytes, fields: tuple[Field, ...]) -> EngineHead:
    """What passes of an engine's head; `fields` without its framing. Engines say the same every time, so it is cached.

    Raises ValueError if a field would not stay one line: it must not become two for the client.
    """
    named = nominated(fields)
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason or _REASONS.get(status, b""))]
    is_stream = tells_limits = False
    for name, value in fields:
        lower = name.lower()
        if lower == b"content-type":
            is_stream = value.lower().startswith(b"text/event-stream")
        tells_limits = tells_limits or b"ratelimit" in lower
        if lower not in NOT_TO_CLIENT and lower not in named and not lower.startswith(CORS_PREFIX):
            lines.append(b"%b: %b\r\n" % (name, value))
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        raise ValueError("a header field of its answer holds a line break")
    return EngineHead(head, is_stream, tells_limits)


def valid_host(host: str) -> bool:
    """Whether `host` is what a Host field may hold (RFC 9110 section 7.2), the empty one included."""
    return _HOST.fullmatch(host) is not None


def host_name(host: str) -> str:
    """A Host field without its port and the dot of the root, lower case."""
    match = _HOST.fullmatch(host)
    return match.group(1).lower().removesuffix(".") if match else ""


def valid_request_id(value: bytes) -> bool:
    """Whether a client's own x-request-id may be echoed and logged."""
    return _REQUEST_ID.fullmatch(value) is not None
