"""What is wanted of a request's body, and what becomes of it for one upstream. Pure.

Refused is only what would make proxy and engine read two different things, or cost too much; the engine judges the
rest.
"""

from slotproxy.proxy.clients import json_body
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.clients.json_body import NOTHING as NOTHING
from slotproxy.proxy.clients.json_body import SMALL, Steps, Wanted

_JSON_PATHS = frozenset(
    f"{prefix}/{name}"
    for prefix in ("/v1", "")
    for name in (
        "chat/completions",
        "completions",
        "responses",
        "messages",
        "messages/count_tokens",
        "embeddings",
        "rerank",
    )
)


def at_a_glance(head: RequestHead, body: bytes) -> Wanted | None:
    """What the proxy wants to know of the body of such a request; None: only `looked_at` tells. Raises Refusal."""
    named = head.named
    if head.method != "POST" or b"content-encoding" in named:
        return NOTHING  # compressed: only the engine can tell
    kind = named.get(b"content-type", b"")
    if head.path in _JSON_PATHS:
        if kind != b"application/json" and kind.lower().startswith(b"multipart/"):
            return NOTHING
        return json_body.at_a_glance(body)
    if not kind.lower().startswith(b"application/json") or body.isascii():
        return NOTHING
    return json_body.at_once(json_body.text(body)) if len(body) <= SMALL else None


def looked_at(head: RequestHead, body: bytes) -> Steps[Wanted]:
    """The same in steps, of a body that needs them. Raises Refusal."""
    return json_body.looked_at(body) if head.path in _JSON_PATHS else json_body.text(body)
