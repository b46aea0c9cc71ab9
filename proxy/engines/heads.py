"""Heads of answers that came before. Pure.

An engine heads every short answer with the same lines, but for the number after Content-Length. Once a parser has found
them good, the same bytes with another number mean the same, and need not be parsed again.
"""

from slotproxy.proxy.headers import EngineHead, Field, engine_head

KNOWN = 64  # heads that are remembered
LONGEST = 2048  # bytes of one
_END = b"\r\n\r\n"
_LENGTHS = (b"\nContent-Length: ", b"\ncontent-length: ")
_DIGITS = 15


class Head:
    """The final head of an answer, without what frames its body."""

    __slots__ = ("_wire", "fields", "reason", "status")

    def __init__(self, status: int, reason: bytes, fields: tuple[Field, ...]) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self._wire: EngineHead | None = None

    @property
    def wire(self) -> EngineHead:
        """What of it passes to a client. Raises ValueError for what must not."""
        wire = self._wire
        if wire is None:
            wire = self._wire = engine_head(self.status, self.reason, self.fields)
        return wire


class KnownHeads:
    """Of answers: only those with Content-Length and a body, after which the connection can be used again."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._before, self._after = b"\0", b""  # of the head that came last: the bytes up to its length, and behind it
        self._size, self._size_after = 1, 0
        self._digits, self._length = b"", 0
        self._latest = Head(0, b"", ())

    def __len__(self) -> int:
        return len(self._heads)

    def recognise(self, segment: bytes) -> tuple[Head, bytes] | None:
        """Head and body, if `segment` is exactly one answer with a head that was added."""
        if segment.startswith(self._before):
            start = self._size
            stop = segment.find(b"\r", start)
            if segment.startswith(self._after, stop):
                body = segment[stop + self._size_after :]
                digits, length = segment[start:stop], len(body)
                if length == self._length:
                    if digits == self._digits:
                        return self._latest, body
                elif digits == b"%d" % length:
                    self._digits, self._length = digits, length
                    return self._latest, body
        parts = _parts(segment)
        if parts is None:
            return None
        before, after, length = parts
        begin = len(before) + len(b"%d" % length) + len(after)
        head = self._heads.get(before + after)
        if head is None or len(segment) - begin != length:
            return None
        self._before, self._after, self._latest = before, after, head
        self._size, self._size_after = len(before), len(after)
        self._digits, self._length = b"%d" % length, length
        return head, segment[begin:]

    def add(self, segment: bytes, head: Head) -> None:
        """`segment` is one answer, and a parser found `head` in it, one Content-Length and no other framing."""
        parts = _parts(segment)
        if parts is None:
            return
        before, after, length = parts
        lines = before + after
        begin = len(lines) + len(b"%d" % length)
        is_one = len(segment) - begin == length and lines.startswith(b"HTTP/1.1 %d " % head.status)
        if is_one and len(lines) <= LONGEST and _is_plain(lines):
            if len(self._heads) >= KNOWN:
                self._heads.clear()
            self._heads[lines] = head


def _is_plain(lines: bytes) -> bool:
    """Whether every line ends as the standard says: else a parser may have seen the end of the head elsewhere. That of
    an answer is elsewhere too where an interim one came first, but then a status line does not fit.
    """
    return lines.count(b"\n") == lines.count(b"\r") == lines.count(b"\r\n")


def _parts(segment: bytes) -> tuple[bytes, bytes, int] | None:
    """The head up to the number after Content-Length and from there on, the empty line included; and this number."""
    end = segment.find(_END)
    if end < 0:
        return None
    for name in _LENGTHS:
        start = segment.find(name, 0, end)
        if start >= 0:
            break
    else:
        return None
    start += len(name)
    stop = segment.find(b"\r", start)
    digits = segment[start:stop]
    if len(digits) > _DIGITS or not digits.isdigit() or (len(digits) > 1 and digits.startswith(b"0")):
        return None
    return segment[:start], segment[stop : end + len(_END)], int(digits)
