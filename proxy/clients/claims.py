"""What a request says of itself to whoever gives out slots. Pure.

The session is what the client calls its conversation. Header fields come first, since a gateway or an agent that sends
one means exactly this; then fields of the body. Not all of these name one conversation:

- `user`, Anthropic's `metadata.user_id` and `prompt_cache_key` may name a person, or an application with all who use
  it. Believed like the others, they would send every conversation of theirs to one engine. Such a session is marked
  weak: the prompt tells these conversations apart, and the name only counts where the prompt tells nothing.
- Claude Code's `metadata.user_id` ends with its session, the same that is in its header field: that part is taken.
- `previous_response_id` names the answer that is continued, another one every time: it is weak, too.
- Agents send one session id for themselves and all their sub-agents. So even a session that is not weak is best
  believed only as far as the prompts do not say otherwise.
"""

import re

import msgspec

from slotproxy.instances.slots.claim import NO_PREFIX, Claim, Priority
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.clients.json_body import plain
from slotproxy.proxy.clients.prompt_blocks import Told, prefix_of
from slotproxy.proxy.headers import PRIORITY, SESSIONS

SMALLEST = 256  # bytes of a body from which on it is worth to know the prompt
LARGEST = 2 << 20  # of a larger one only the head is read: it takes long, and the beginning of a JSON text is none
LONGEST_SESSION = 256  # bytes
_LONGEST_ESCAPED = 6 * LONGEST_SESSION + 2
_BEGIN_NAMES = frozenset(b"%c" % byte for byte in b'"-0123456789')

_PATHS = frozenset(
    [
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
        *("/chat/completions", "/completions", "/responses", "/messages"),
        *("/completion", "/infill", "/api/chat", "/api/generate"),
    ]
)
_CLAUDE_CODE = re.compile(r"(?:_session_|\"session_id\" ?: ?\")([0-9A-Fa-f-]{36})(?:\"|$)")


class _Body(Told, frozen=True):
    """What else of the body says something."""

    prompt_cache_key: msgspec.Raw = msgspec.Raw(b"")
    session_id: msgspec.Raw = msgspec.Raw(b"")
    metadata: msgspec.Raw = msgspec.Raw(b"")
    previous_response_id: msgspec.Raw = msgspec.Raw(b"")
    user: msgspec.Raw = msgspec.Raw(b"")


class _Metadata(msgspec.Struct, frozen=True):
    user_id: msgspec.Raw = msgspec.Raw(b"")


_NOTHING = _Body()
_body = msgspec.json.Decoder(_Body)
_metadata = msgspec.json.Decoder(_Metadata)
_string = msgspec.json.Decoder(str)
Session = tuple[str, bool]  # its name, and whether it is weak


def worth_a_look(head: RequestHead, body: bytes) -> bool:
    """Whether `claim_of` may find anything that matters."""
    return (len(body) >= SMALLEST or head.names_session) and head.method == "POST" and head.path in _PATHS


def claim_of(head: RequestHead, body: bytes, principal: str) -> Claim:
    """Never raises: what cannot be read says nothing."""
    told = _NOTHING if len(body) > LARGEST else _read(body)
    session, is_weak = _named(head) or _named_in(told) or (None, False)
    try:
        prefix = prefix_of(told)
    except (ValueError, RecursionError):
        prefix = NO_PREFIX
    return Claim(principal=principal, priority=_priority(head), session=session, session_is_weak=is_weak, prefix=prefix)


def _priority(head: RequestHead) -> Priority:
    wish = head.named.get(PRIORITY)
    return Priority.BATCH if wish is not None and wish.lower() == b"batch" else Priority.INTERACTIVE


def _named(head: RequestHead) -> Session | None:
    named = head.named
    for name in SESSIONS:
        if name in named and (session := _name(named[name].decode("latin-1"))):
            return session, False
    return None


def _named_in(body: _Body) -> Session | None:
    if name := _text(body.prompt_cache_key):
        return name, True
    if name := _text(body.session_id):
        return name, False
    if name := _user_of(body.metadata):
        own = _CLAUDE_CODE.search(name)
        return (name, True) if own is None else (own[1], False)
    name = _text(body.previous_response_id) or _text(body.user)
    return (name, True) if name else None


def _user_of(metadata: msgspec.Raw) -> str:
    """Of Anthropic's `metadata`."""
    if not metadata:
        return ""
    try:
        return _text(_metadata.decode(metadata).user_id)
    except (ValueError, RecursionError):
        return ""


def _text(raw: msgspec.Raw) -> str:
    """A string or a number, if it can be a session's name; else empty."""
    if not raw or len(raw) > _LONGEST_ESCAPED:
        return ""
    value = bytes(raw)
    if value[:1] not in _BEGIN_NAMES:
        return ""
    try:
        return _name(_string.decode(value) if value[:1] == b'"' else value.decode())
    except ValueError:
        return ""


def _name(text: str) -> str:
    text = text.strip()
    return text if len(text.encode()) <= LONGEST_SESSION else ""


def _read(body: bytes) -> _Body:
    """As lenient as the proxy is towards engines."""
    try:
        return _body.decode(body)
    except msgspec.ValidationError:
        return _NOTHING
    except (ValueError, RecursionError):
        pass
    try:
        return _body.decode(plain(body))
    except (ValueError, RecursionError):
        return _NOTHING
