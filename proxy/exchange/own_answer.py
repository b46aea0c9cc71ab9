"""The bytes of answers that the proxy gives itself where neither an engine nor a page of its own is asked. Pure."""

from collections.abc import Mapping
from http import HTTPStatus

from slotproxy.proxy.errors import Refusal


def refusal_bytes(
    refusal: Refusal,
    path: str,
    request_id: str,
    *,
    own: bytes = b"",
    keep_alive: bool = False,
    http11: bool = True,
    head_only: bool = False,
) -> bytes:
    """An error in the shape clients of `path` expect; `own`: finished header lines. `head_only`: a HEAD request's."""
    fields = {"Content-Type": "application/json; charset=utf-8", **refusal.headers}
    body = refusal.body(path)
    head = _head(refusal.status, fields, request_id, len(body), own, keep_alive=keep_alive, http11=http11)
    return head if head_only else head + body


def empty_bytes(
    status: int, fields: Mapping[str, str], request_id: str, *, own: bytes = b"", keep_alive: bool, http11: bool
) -> bytes:
    """An answer without a body."""
    return _head(status, fields, request_id, None, own, keep_alive=keep_alive, http11=http11)


def stream_head_bytes(request_id: str, *, own: bytes = b"", keep_alive: bool) -> bytes:
    """The head of an event stream in chunks, whoever fills it."""
    fields = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        "Transfer-Encoding": "chunked",
    }
    return empty_bytes(200, fields, request_id, own=own, keep_alive=keep_alive, http11=True)


def _head(
    status: int,
    fields: Mapping[str, str],
    request_id: str,
    length: int | None,
    own: bytes,
    *,
    keep_alive: bool,
    http11: bool,
) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"x-request-id: {request_id}", "Server: slotproxy"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if not keep_alive:
        lines.append("Connection: close")
    elif not http11:
        lines.append("Connection: keep-alive")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n" + own + b"\r\n"
