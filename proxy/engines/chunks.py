"""Whole chunks of a chunked body (RFC 9112 section 7.1), told by their length alone. Pure.

An engine sends each event of a stream as one chunk, and mostly one read brings one chunk. For those neither a parser
nor new framing is needed: the bytes that came are the bytes to be sent.
"""

LONGEST = 4096  # bytes of a segment that may be recognised; events are a few hundred


def _opening(length: int) -> bytes:
    """The size line of the chunk that takes `length` bytes with all its framing; empty where no size gives that."""
    for digits in range(1, len(b"%x" % length) + 1):
        size = length - digits - 4  # two line ends
        if size > 0 and len(b"%x" % size) == digits:
            return b"%x\r\n" % size
    return b""


END = b"\r\n"
OPENINGS = tuple(_opening(length) for length in range(LONGEST))
"""By the length of a segment, what it begins with if it is one whole chunk framed as we frame: the size in lower case
without leading zeros, no extension; not the last chunk, whose size is 0. It then ends with END. Empty: it is none.
"""
FRAMINGS = tuple(len(opening) + len(END) if opening else -1 for opening in OPENINGS)
"""By the same length, how many bytes are left out of the segment when both ends of the framing are; -1: it is no chunk.

A segment is one whole chunk if it has that many bytes fewer once its opening and END are removed; what is left is the
content.
"""
