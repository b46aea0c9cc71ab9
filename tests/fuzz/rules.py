"""Where the front and aiohttp's parser may differ about the same bytes, and why. docs/security.md lists these rules.

Each is told from the request itself, never from what the front says about it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tests.clients import Answer
from tests.fuzz.reference import Message
from tests.strict_engine import Seen


class Kind(StrEnum):
    REFUSED = "the front refuses what aiohttp reads"
    SERVED = "the front serves what aiohttp does not read"
    UNANSWERED = "the front closes without an answer to what aiohttp reads"
    SILENT = "the front neither answers nor closes"
    CUT = "the front closes in the middle of an answer"
    METHOD = "the method differs"
    TARGET = "the target differs"
    FIELDS = "the fields differ"
    BODY = "the body differs"
    UNSOUND = "the engine gets what is no sound request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`message`: aiohttp's; `answer` and `seen`: what the client and the engine got of it."""

    kind: Kind
    message: Message | None = None
    answer: Answer | None = None
    seen: Seen | None = None
    error: str = ""  # aiohttp's
    rest: bytes = b""  # that it could not read


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    name: str
    why: str
    kind: Kind
    explains: Callable[[Message, Difference], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A rule for what aiohttp does not read. `pattern`: of the bytes; `error`: of what it says about them."""

    name: str
    why: str
    pattern: re.Pattern[bytes] = re.compile(rb"(?!)")
    error: str = "(?!)"

    def explains(self, difference: Difference) -> bool:
        return bool(self.pattern.search(difference.rest) or re.search(self.error, difference.error))


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LINE, TOGETHER, FIELDS = 16 << 10, 64 << 10, 100
ENDS_HERE = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade http2-settings host content-length expect accept-encoding x-request-id x-slotproxy-priority "
    b"x-slotproxy-via".split()
)
_BYTE = rb"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LOCAL = re.compile(  # \w is ASCII here
    rb"(|localhost\.?|[\w~-]+|[\w.~-]+\.(localhost|local|internal)\.?|"
    + _BYTE
    + rb"(\."
    + _BYTE
    + rb"){3}|\[[0-9a-fA-F:.]+\])(:[0-9]{0,5})?",
    re.IGNORECASE,
)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_LONG_CHUNK_SIZE = re.compile(rb"\n[0-9a-fA-F]{16,}[^0-9a-zA-Z]")
_BLANK_IN_CHUNK_LINE = re.compile(rb"\n[0-9a-fA-F]{1,15}(?=[^\r\n]*[ \t])[ \t]*(;[\t -~\x80-\xff]*)?\r\n")
_TRAILER = re.compile(
    rb"\n0+[ \t]*(;[^\r\n]*)?\r\n([^\r\n]+\r\n)*(content-length|transfer-encoding|host):", re.IGNORECASE
)
BLANK_AFTER_CODING = re.compile(rb"\ntransfer-encoding:[ \t]*chunked[ \t]+\r", re.IGNORECASE)


def head_of(message: Message) -> bytes:
    """Start line and field lines, without empty lines before them."""
    raw = message.raw.lstrip(b"\r\n")
    end = re.search(rb"\r?\n\r?\n", raw)
    return raw[: end.start()] if end else raw


def start_line(message: Message) -> bytes:
    return head_of(message).partition(b"\n")[0].rstrip(b"\r")


def origin_form(target: bytes) -> bytes:
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return target
    return match[2] if match[2].startswith(b"/") else b"/" + match[2]


def passed_on(fields: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    """The fields that go on to an engine, blanks around their values left out."""
    named = {
        token.strip().lower() for name, value in fields if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value.strip(b" \t")) for name, value in fields if name.lower() not in ENDS_HERE | named]


def _other_version(message: Message, difference: Difference) -> bool:
    return not re.search(rb" HTTP/1\.[01]$", start_line(message))


def _other_method(message: Message, difference: Difference) -> bool:
    return message.method not in METHODS


def _no_path(message: Message, difference: Difference) -> bool:
    target = message.target
    if target.startswith(b"/"):
        return b"#" in target or not target.isascii() or not target.decode().isprintable()
    match = _ABSOLUTE.fullmatch(target)
    return match is None or match[1] == b"" or b"@" in match[1] or not match[0].isascii()


def _foreign_host(message: Message, difference: Difference) -> bool:
    hosts = message.values(b"host")
    if len(hosts) > 1 or (not hosts and message.version.minor == 1):
        return True
    match = _ABSOLUTE.fullmatch(message.target)
    authorities = [*hosts, match[1]] if match else hosts
    return any(_LOCAL.fullmatch(one.strip(b" \t")) is None or _port(one) > 65535 for one in authorities)


def _port(authority: bytes) -> int:
    digits = authority.strip(b" \t").rpartition(b":")[2]
    return int(digits) if digits.isdigit() else 0


def _other_coding(message: Message, difference: Difference) -> bool:
    codings = message.values(b"transfer-encoding")
    return bool(codings) and [one.strip(b" \t").lower() for one in codings] != [b"chunked"]


def _other_expectation(message: Message, difference: Difference) -> bool:
    return any(value.strip(b" \t").lower() != b"100-continue" for value in message.values(b"expect"))


def _long_chunk_size(message: Message, difference: Difference) -> bool:
    return bool(message.values(b"transfer-encoding")) and _LONG_CHUNK_SIZE.search(message.raw) is not None


def _large_head(message: Message, difference: Difference) -> bool:
    head = head_of(message)
    lines = head.split(b"\n")
    return len(head) > TOGETHER or len(lines) > FIELDS + 1 or max(map(len, lines)) > LINE


def _absolute(message: Message, difference: Difference) -> bool:
    assert difference.seen is not None
    return difference.seen.target == origin_form(message.target)


def _stripped(message: Message, difference: Difference) -> bool:
    assert difference.seen is not None
    return sorted(_fields_of(difference.seen), key=_name) == sorted(passed_on(message.fields), key=_name)


def _name(field: tuple[bytes, bytes]) -> bytes:
    """The order of fields means something only among those of one name."""
    return field[0].lower()


def _fields_of(seen: Seen) -> list[tuple[bytes, bytes]]:
    """Those that are not the proxy's own."""
    lines = [line.partition(b":") for line in seen.head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]]
    return [(name, value.strip(b" \t")) for name, _, value in lines if name.lower() not in ENDS_HERE]


RULES = (
    Rule(
        name="version",
        why="Only HTTP/1.1 and HTTP/1.0 are spoken; aiohttp takes RTSP and ICE for HTTP and passes any version on.",
        kind=Kind.REFUSED,
        explains=_other_version,
    ),
    Rule(
        name="method",
        why="Methods that no engine has are refused: TRACE echoes credentials, CONNECT asks for a tunnel.",
        kind=Kind.REFUSED,
        explains=_other_method,
    ),
    Rule(
        name="target",
        why="A target is a path in printable ASCII without a fragment, or absolute with http or https and no user.",
        kind=Kind.REFUSED,
        explains=_no_path,
    ),
    Rule(
        name="host",
        why="There is one Host (in HTTP/1.0 at most one), valid, and without keys one that means this machine; "
        "so does the authority of an absolute target.",
        kind=Kind.REFUSED,
        explains=_foreign_host,
    ),
    Rule(
        name="coding",
        why="Only chunked is known as a transfer coding; aiohttp hands on what else was named, still encoded.",
        kind=Kind.REFUSED,
        explains=_other_coding,
    ),
    Rule(
        name="chunked in HTTP/1.0",
        why="HTTP/1.0 has no transfer codings, so its framing is ambiguous; aiohttp reads it.",
        kind=Kind.REFUSED,
        explains=lambda message, difference: message.version.minor == 0 and bool(message.values(b"transfer-encoding")),
    ),
    Rule(
        name="expectation",
        why="Only 100-continue can be expected; aiohttp leaves that to its user.",
        kind=Kind.REFUSED,
        explains=_other_expectation,
    ),
    Rule(
        name="chunk size",
        why="A chunk size has at most 15 digits; aiohttp takes any number of leading zeros.",
        kind=Kind.REFUSED,
        explains=_long_chunk_size,
    ),
    Rule(
        name="size of a head",
        why="A line has at most 16 KiB, a head 64 KiB and 100 fields; aiohttp bounds no sum.",
        kind=Kind.REFUSED,
        explains=_large_head,
    ),
    Rule(
        name="absolute target",
        why="An engine gets the path of an absolute target.",
        kind=Kind.TARGET,
        explains=_absolute,
    ),
    Rule(
        name="fields that end here",
        why="Hop-by-hop fields, those that Connection names, framing, Host and Expect are the proxy's own to send; "
        "fields of different names may change places.",
        kind=Kind.FIELDS,
        explains=_stripped,
    ),
)
# What the front serves and aiohttp does not is told from the bytes that aiohttp could not read.
SERVED_RULES = (
    Unread(
        name="blanks in chunk lines",
        why="Blanks around chunk extensions are legal, those after a size are harmless; aiohttp refuses both.",
        pattern=_BLANK_IN_CHUNK_LINE,
    ),
    Unread(
        name="blanks after chunked",
        why="Blanks after the value of any field are legal; aiohttp refuses them after 'chunked', or reads no body.",
        pattern=BLANK_AFTER_CODING,
    ),
    Unread(
        name="no Host",
        why="A request without Host is refused, but where it ends is clear; aiohttp reads no further.",
        error="Missing 'Host' header",
    ),
    Unread(
        name="tunnel",
        why="CONNECT is refused, and what follows it read by its framing; aiohttp takes it for the tunnel's.",
        pattern=re.compile(rb"^(\r\n)*CONNECT "),
    ),
    Unread(
        name="trailers",
        why="Trailers are dropped unread, whatever they name; aiohttp refuses those that name a framing or a Host.",
        pattern=_TRAILER,
    ),
)


def explain(difference: Difference) -> str | None:
    """The name of the rule by which this is right; None: nothing explains it."""
    if difference.kind is Kind.SERVED:
        return next((rule.name for rule in SERVED_RULES if rule.explains(difference)), None)
    if difference.message is None:
        return None
    for rule in RULES:
        if rule.kind is difference.kind and rule.explains(difference.message, difference):
            return rule.name
    return None
