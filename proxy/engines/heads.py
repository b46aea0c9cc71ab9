"""Heads of messages that came before. Pure.

An engine heads every short answer with the same lines, and a client its requests, but for the number after
Content-Length. Once a parser has found them good, the same bytes with another number mean the same, and need not be
parsed again.
"""

from typing import Generic, NamedTuple, TypeVar

from slotproxy.proxy.headers import Field

T = TypeVar("T")

KNOWN = 64  # heads that are remembered, of answers and of requests
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
        if _is_plain(lines) and len(segment) - begin == length and lines.startswith(b"HTTP/1.1 %d " % head.status):
            _keep(self._heads, lines, head)


class KnownRequests(Generic[T]):
    """Of requests: what was made of the head, by its bytes. They hold credentials, so they are looked up whole."""

    def __init__(self) -> None:
        self._heads: dict[bytes, T] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def recognise(self, segment: bytes) -> tuple[T, int, int] | None:
        """What was made of the head with which `segment` begins, where the body begins, and where it ends."""
        parts = _parts(segment)
        if parts is None:
            return None
        lines, length, begin = parts
        known = self._heads.get(lines)
        return None if known is None else (known, begin, begin + length)

    def add(self, segment: bytes, length: int, made: T) -> None:
        """`segment` begins with a request that a parser accepted: a POST with one Content-Length, which is `length`, no
        other framing, no expectation, and the connection stays open after it.
        """
        parts = _parts(segment)
        if parts is not None and parts[1] == length and parts[0].startswith(b"POST ") and _is_plain(parts[0]):
            _keep(self._heads, parts[0], made)

    def clear(self) -> None:
        """What was allowed may no longer be."""
        self._heads.clear()


def head_size(segment: bytes) -> int | None:
    """Bytes of the head with which `segment` begins, its empty line included; None where another place could be taken
    for its end, or it is not there yet.
    """
    end = segment.find(_END)
    return end + len(_END) if end > 0 and _is_plain(segment[:end]) else None


def _keep(heads: dict[bytes, T], lines: bytes, made: T) -> None:
    if len(heads) >= KNOWN:
        heads.clear()
    heads[lines] = made


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
