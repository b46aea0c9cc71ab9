"""Whole chunks of a chunked body (RFC 9112 section 7.1), told by their length alone. Pure.

An engine sends each event of a stream as one chunk, and mostly one read brings one chunk. For those neither a parser
nor new framing is needed: the bytes that came are the bytes to be sent.
"""

LONGEST = 4096  # bytes of a segment that may be recognised; events are a few hundred
_CARRIAGE_RETURN, _LINE_FEED = b"\r\n"


def _opening(length: int) -> bytes | None:
    """The size line of the chunk that takes `length` bytes with all its framing; None where no size gives that."""
    for digits in range(1, len(b"%x" % length) + 1):
        size = length - digits - 4  # two line ends
        if size > 0 and len(b"%x" % size) == digits:
            return b"%x\r\n" % size
    return None


_OPENINGS = tuple(_opening(length) for length in range(LONGEST))


def content_of(segment: bytes) -> bytes | None:
    """What is in `segment` if it is exactly one chunk, framed as we would frame it ourselves; else None.

    That is: the size in lower case without leading zeros, no extension, not the last chunk. `segment` must begin where
    a chunk may begin, and must not be empty.
    """
    length = len(segment)
    if length < LONGEST:
        opening = _OPENINGS[length]
        if opening is not None and segment[-1] == _LINE_FEED and segment[-2] == _CARRIAGE_RETURN:
            start = len(opening)
            if segment[:start] == opening:
                return segment[start:-2]
    return None
