"""Heads of answers that came before. Pure.

An engine heads every short answer with the same lines, but for the number after Content-Length. Once a parser has found
them good, the same bytes with another number mean the same, and need not be parsed again.
"""

from typing import NamedTuple

from slotproxy.proxy.headers import Field

KNOWN = 64  # heads that are remembered
LONGEST = 2048  # bytes of one
_END = b"\r\n\r\n"
_LENGTHS = (b"\nContent-Length: ", b"\ncontent-length: ")
_DIGITS = 15


class Head(NamedTuple):
    """As exchange.Sink.head takes it, without the length."""

    status: int
    reason: bytes
    fields: tuple[Field, ...]


class KnownHeads:
    """Of answers: only those with Content-Length and a body, after which the connection can be used again."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def recognise(self, segment: bytes) -> tuple[Head, bytes] | None:
        """Head and body, if `segment` is exactly one answer with a head that was added."""
        parts = _parts(segment)
        if parts is None:
            return None
        lines, length, begin = parts
        head = self._heads.get(lines)
        return None if head is None or len(segment) - begin != length else (head, segment[begin:])

    def add(self, segment: bytes, head: Head) -> None:
        """`segment` is one answer, and a parser found `head` in it, one Content-Length and no other framing."""
        parts = _parts(segment)
        if parts is None:
            return
        lines, length, begin = parts
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


def _parts(segment: bytes) -> tuple[bytes, int, int] | None:
    """The head without the number after Content-Length, this number, and where what follows the head begins."""
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
    if len(digits) > _DIGITS or not digits.isdigit():
        return None
    return segment[:start] + segment[stop:end], int(digits), end + len(_END)
