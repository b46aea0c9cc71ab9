"""Heads of answers that an engine sent before. Pure.

An engine heads every short answer with the same lines, but for the number after Content-Length. Once a parser has
found them good, the same bytes with another number mean the same, and need not be parsed again.
"""

from typing import NamedTuple

from slotproxy.proxy.headers import Field

KNOWN = 64  # heads that are remembered
_END = b"\r\n\r\n"
_LENGTHS = (b"\nContent-Length: ", b"\ncontent-length: ")
_DIGITS = 15


class Head(NamedTuple):
    """As relay.Sink.head takes it, without the length."""

    status: int
    reason: bytes
    fields: tuple[Field, ...]


class KnownHeads:
    """Only of answers with Content-Length and a body, after which the connection can be used again."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def recognise(self, segment: bytes) -> tuple[Head, bytes] | None:
        """Head and body, if `segment` is exactly one answer with a head that was added."""
        parts = _parts(segment)
        if parts is None:
            return None
        lines, length, body = parts
        head = self._heads.get(lines)
        return None if head is None or len(body) != length else (head, body)

    def add(self, segment: bytes, head: Head) -> None:
        """`segment` is one answer, and a parser found `head` in it, one Content-Length and no other framing."""
        parts = _parts(segment)
        if parts is None:
            return
        lines, length, body = parts
        # Where an interim answer came first, or lines end as the standard does not say, another place was taken for
        # the end of the head than the parser's.
        plain = lines.count(b"\n") == lines.count(b"\r") == lines.count(b"\r\n")
        if plain and len(body) == length and lines.startswith(b"HTTP/1.1 %d " % head.status):
            if len(self._heads) >= KNOWN:
                self._heads.clear()
            self._heads[lines] = head


def _parts(segment: bytes) -> tuple[bytes, int, bytes] | None:
    """The head without the number after Content-Length, this number, and what follows the head."""
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
    return segment[:start] + segment[stop:end], int(digits), segment[end + len(_END) :]
