"""The head of a client's request: judged by httptools, held to limits of our own, and taken apart here. Pure.

A `HeadReader` gives httptools the bytes of exactly one head, up to the empty line and no further, and has a parser for
each head of its own. So nothing of one message, a trailer least of all, can show up in the next, and the body and what
follows it are never the parser's to judge. httptools says whether the bytes are valid; what they say is then read line
by line, which is exact, since in a valid head every line ends with CRLF and none is folded. What httptools leaves out
is checked here: the protocol and its version, the size of lines and heads, the number of fields, and which framing of a
body is understood (RFC 9112 section 6.3).
"""

import re
from typing import Any

import httptools

from slotproxy.proxy.errors import head_too_large, malformed, not_implemented
from slotproxy.proxy.headers import CREDENTIALS, NOT_TO_ENGINE, PRIORITY, SESSIONS

MAX_LINE = 16 * 1024  # bytes of a request line, and of one header field
MAX_HEAD = 64 * 1024  # bytes of a head, its empty line included
MAX_FIELDS = 100
_END = b"\r\n\r\n"
_KEPT_NAMES, _KEPT_NAME = 1024, 64  # names whose meaning is remembered, and the bytes of the longest that is
_KEPT_HEAD = 4096  # bytes of the largest head that is recognised when it comes again
_DIGITS = 15  # of a body's length in such a head
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,%d})\r\n" % _DIGITS)
_VERSIONS = {b"HTTP/1.1": True, b"HTTP/1.0": False}
_READ_HERE = frozenset(
    b"host origin authorization x-api-key api-key x-request-id connection content-length transfer-encoding "
    b"content-type content-encoding expect access-control-request-method access-control-request-headers".split()
) | frozenset(SESSIONS)
_FOR_US = frozenset({b"host", b"content-length", b"transfer-encoding"})  # may be there once, and never pass
_CONNECTION = frozenset({b"connection", b"proxy-connection"})  # the second is no standard, and says close all the same
_NO_NAMES: frozenset[bytes] = frozenset()
_SAYING = frozenset({PRIORITY, *SESSIONS})

SPECIAL = _READ_HERE | NOT_TO_ENGINE | CREDENTIALS
"""Lower-case names of the fields that are read here, or that some engine must not get; all others pass to every one."""


class _Meanings(dict[bytes, bytes]):
    """By a field's name as a client writes it: the lower case of a special one, empty for one that passes."""

    def of(self, name: bytes) -> bytes:
        lower = name.lower()
        meaning = lower if lower in SPECIAL else b""
        if len(name) <= _KEPT_NAME:
            if len(self) >= _KEPT_NAMES:
                self.clear()
            self[name] = meaning
        return meaning


_meanings = _Meanings()


class RequestHead:
    """One request's start line and fields, checked as far as HTTP goes."""

    __slots__ = (
        "chunked", "has_length", "http11", "keep_alive", "length", "lines", "method", "named", "names_session",
        "nominated", "path", "special", "target", "way", "written",
    )  # fmt: skip

    def __init__(self, method: bytes, target: bytes, *, http11: bool) -> None:
        self.method = method.decode()
        self.take_target(target)
        self.http11 = http11
        self.keep_alive = http11  # the client wants to go on with this connection
        self.has_length = False  # there was a Content-Length
        self.length = 0  # bytes of the body, where it is not chunked
        self.chunked = False
        self.lines: list[bytes] = []  # of the fields that pass to every engine, as they came
        self.special: list[tuple[bytes, bytes]] = []  # of the others: lower-case name, and the line as it came
        self.named: dict[bytes, bytes] = {}  # values of the special ones; of several the first
        self.names_session = False  # or says how urgent it is: whoever gives out slots wants to know
        self.nominated = _NO_NAMES  # by `Connection`, lower case: fields for this connection alone
        self.way: tuple[object, Any] | None = None  # by whose rules it was let in, and where it goes
        self.written: dict[object, bytes] = {}  # by who wrote it: what became of it for an engine

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.path}>"  # no field: some are credentials

    def take_target(self, target: bytes) -> None:
        """`target` is the request's, from now on."""
        self.target = target
        self.path = (target.partition(b"?")[0] if b"?" in target else target).decode("latin-1")

    def of_length(self, length: int) -> "RequestHead":
        """The same head, but for the length of its body."""
        head = RequestHead.__new__(RequestHead)
        for name in RequestHead.__slots__:
            setattr(head, name, getattr(self, name))
        head.length = length
        return head

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length > 0

    def text(self, name: bytes) -> str | None:
        """The value of a special field."""
        value = self.named.get(name)
        return None if value is None else value.decode("latin-1")


class LastHead:
    """The head a connection began its latest request with. The same bytes say the same again, and need not be judged
    and taken apart again; only the number after Content-Length may be another.
    """

    __slots__ = ("_after", "_before", "_digits", "_head", "_size", "_size_after")

    def __init__(self, before: bytes, after: bytes | None, head: RequestHead) -> None:
        self._before = before  # all bytes up to that number
        self._size = len(before)
        self._digits = b"%d" % head.length  # the number
        self._after = after  # all bytes behind it; None: there is none
        self._size_after = len(after or b"")
        self._head = head

    @classmethod
    def of(cls, raw: bytes, head: RequestHead) -> "LastHead | None":
        """None: it is not worth it, or the number is not written plainly."""
        if len(raw) > _KEPT_HEAD or head.chunked or not head.target.startswith(b"/"):
            return None
        if not head.has_length:
            return cls(raw, None, head)
        length = _LENGTH.search(raw)
        return None if length is None else cls(raw[: length.start(1)], raw[length.end(1) :], head)

    def again(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """The head with which `data` begins, and what follows it, if it is this one."""
        if not data.startswith(self._before):
            return None
        start, after = self._size, self._after
        if after is None:
            return self._head, data[start:]
        stop = data.find(b"\r", start)
        if not data.startswith(after, stop):
            return None
        digits = data[start:stop]
        if digits != self._digits:
            if not digits.isdigit() or len(digits) > _DIGITS:
                return None
            self._digits = digits
            self._head = self._head.of_length(int(digits))
        return self._head, data[stop + self._size_after :]


class HeadReader:
    """Takes the bytes of a connection until a head is whole, once for each request."""

    __slots__ = ("_came", "_judge_of_head", "_last", "head")

    def __init__(self) -> None:
        self.head: RequestHead | None = None
        self._last: LastHead | None = None
        self._judge_of_head: httptools.HttpRequestParser | None = None
        self._came = b""  # of a head that comes in several pieces

    @property
    def begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._judge_of_head is not None

    def read(self, data: bytes) -> bytes | None:
        """The bytes behind the head once it is whole, which then is `head`; None: more is needed.

        Raises Refusal; nothing can be read after it.
        """
        came = self._came
        if not came:
            if self._last is not None and (again := self._last.again(data)) is not None:
                self.head, rest = again
                return rest
            if data[0] in b"\r\n":  # blank lines before a request mean nothing (RFC 9112 section 2.2)
                data = data.lstrip(b"\r\n")
                if not data:
                    return None
            self._judge_of_head = httptools.HttpRequestParser(self)
            # `_frame` is the stricter judge
            self._judge_of_head.set_dangerous_leniencies(lenient_transfer_encoding=True)
        before = came[1 - len(_END) :]  # the end may have been cut
        found = (before + data).find(_END)
        if found < 0:
            self._judge(data)
            self._came = came + data
            return None
        end = found + len(_END) - len(before)
        last = data if end == len(data) else data[:end]
        self._judge(last)
        raw = came + last
        self.head = _read(raw)
        self._last = LastHead.of(raw, self.head)
        self._judge_of_head, self._came = None, b""
        return data[end:]

    def _judge(self, data: bytes) -> None:
        """Raises Refusal."""
        assert self._judge_of_head is not None
        try:
            self._judge_of_head.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # an offer, which is not taken: the request is one like others
        except httptools.HttpParserError as error:  # what it says repeats nothing of what the client sent
            raise malformed(f"The request is not valid HTTP: {str(error)[:200] or 'unreadable'}.") from None
        if len(self._came) + len(data) > MAX_HEAD:
            raise head_too_large(f"The head of the request is larger than {MAX_HEAD} bytes.")


def _read(raw: bytes) -> RequestHead:
    """What a valid head says. Raises Refusal for what it may not."""
    lines = raw.split(b"\r\n")  # the last two are empty
    if len(lines) - 3 > MAX_FIELDS:
        raise head_too_large(f"The request has more than {MAX_FIELDS} header fields.")
    if len(raw) > MAX_LINE:
        _check_lines(lines)
    words = lines[0].split(b" ")
    if len(words) != 3:
        words = [word for word in words if word]  # several blanks between two are read as one (RFC 9112 section 3)
    http11 = _VERSIONS.get(words[2]) if len(words) == 3 else None
    if http11 is None:
        raise malformed("The request is not valid HTTP: its first line does not end with HTTP/1.1 or HTTP/1.0.")
    head = RequestHead(words[0], words[1], http11=http11)
    passing, special, named = head.lines, head.special, head.named
    known, repeated = _meanings.get, False
    for line in lines[1:-2]:
        name, _, value = line.partition(b":")
        meaning = known(name)
        if meaning is None:
            meaning = _meanings.of(name)
        if not meaning:
            passing.append(line)
            continue
        if meaning not in _FOR_US:
            special.append((meaning, line))
        if meaning not in named:
            named[meaning] = value.strip(b" \t")
        elif meaning in _FOR_US:
            raise malformed(f"The header field {meaning.decode()} is there twice.")
        else:
            repeated = True
    head.names_session = not _SAYING.isdisjoint(named)
    wish = named.get(b"connection")
    if (wish is not None and (repeated or not http11 or wish != b"keep-alive")) or b"proxy-connection" in named:
        _connect(head)
    _frame(head)
    return head


def _check_lines(lines: list[bytes]) -> None:
    if len(lines[0]) > MAX_LINE:
        raise head_too_large(f"The request line is longer than {MAX_LINE} bytes.", status=414)
    if max(map(len, lines)) > MAX_LINE:
        raise head_too_large(f"A header field is longer than {MAX_LINE} bytes.")


def _connect(head: RequestHead) -> None:
    """What the client wants of its connection."""
    values = [line.partition(b":")[2] for name, line in head.special if name in _CONNECTION]
    tokens = {token.strip(b" \t").lower() for value in values for token in value.split(b",")}
    head.keep_alive = b"close" not in tokens and (head.http11 or b"keep-alive" in tokens)
    head.nominated = frozenset(tokens - {b"", b"close", b"keep-alive"})


def _frame(head: RequestHead) -> None:
    """How long the body is. Raises Refusal unless proxy and engine must read it alike."""
    length, coding = head.named.pop(b"content-length", None), head.named.get(b"transfer-encoding")
    if coding is None:
        if length is not None:
            head.has_length = True
            head.length = int(length)  # httptools lets only digits pass
        return
    if length is not None or not head.http11:
        raise malformed("The framing of the request is ambiguous.")
    coding = coding.lower()
    if coding != b"chunked":
        if coding.rpartition(b",")[2].strip(b" \t") == b"chunked":
            raise not_implemented("Of transfer codings only chunked is understood here.")
        raise malformed("The request has a transfer coding that is not chunked.")
    head.chunked = True
