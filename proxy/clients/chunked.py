"""A chunked request body (RFC 9112 section 7.1), read strictly and in whatever pieces it comes. Pure.

Two recipients that disagree about where a body ends disagree about what the next request is. So whatever a strict
recipient would refuse is refused, at the byte that is wrong. Extensions and trailers are held to their grammar and
dropped.
"""

import re
from collections.abc import Iterable

MAX_DIGITS = 15  # of a size: the largest is below 2**60
MAX_SIZE_LINE = 4 * 1024  # bytes of a line with a size and its extensions
MAX_TRAILER = 16 * 1024  # bytes of a trailer's line
MAX_TRAILERS = 64 * 1024  # bytes of all of them
MAX_TRAILER_FIELDS = 100

_CRLF = b"\r\n"
_DIGITS = re.compile(rb"[0-9A-Fa-f]*")
_BLANKS = b" \t"
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TEXT = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))  # all but control bytes
_QUOTED_TEXT = _TEXT.translate(None, b'"\\')

# A size line that is all there is matched at once: tiny chunks must not cost much more than they weigh. The table below
# judges those that are cut or wrong.
_QUOTED = rb'"[%b]*+(?:\\[%b][%b]*+)*"' % tuple(map(re.escape, (_QUOTED_TEXT, _TEXT, _QUOTED_TEXT)))
_EXTENSION = rb"[ \t]*+;[ \t]*+[%b]++(?:[ \t]*+=[ \t]*+(?:[%b]++|%b))?" % (*[re.escape(_TOKEN)] * 2, _QUOTED)
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,%d})(?:[ \t]*+\r\n|(?:%b)+\r\n)" % (MAX_DIGITS, _EXTENSION))

# What is due. Only a line feed leads to one of the first four.
_DIGIT, _SIZE_LINE_ENDED, _FIELD, _OVER = range(4)
_AFTER_SIZE, _NAME, _IN_NAME, _AFTER_NAME, _VALUE, _IN_VALUE, _AFTER_VALUE = range(4, 11)
_IN_QUOTES, _ESCAPED, _QUOTES_ENDED, _SIZE_LF, _DATA_CR, _DATA_LF = range(11, 17)
_IN_FIELD_NAME, _IN_FIELD_VALUE, _FIELD_LF, _LAST_LF = range(17, 21)
# Nothing can be right any more, and why.
_BAD_SIZE, _BAD_AFTER_SIZE, _BAD_EXTENSION, _BAD_DATA_END, _BAD_TRAILER, _BAD_LINE_END = range(21, 27)

_SENTENCES = {
    _BAD_SIZE: f"a chunk's size is not 1 to {MAX_DIGITS} hexadecimal digits",
    _BAD_AFTER_SIZE: "a chunk's size is followed by neither an extension nor CRLF",
    _BAD_EXTENSION: "a chunk's extension is malformed",
    _BAD_DATA_END: "a chunk's data is not followed by CRLF",
    _BAD_TRAILER: "a trailer field is malformed",
    _BAD_LINE_END: "a line of the chunked body does not end with CRLF",
}

_Steps = Iterable[tuple[bytes, int]]
_AFTER_EXTENSION: _Steps = ((b";", _NAME), (b"\r", _SIZE_LF))
_GRAMMAR: dict[int, tuple[int, _Steps]] = {  # what is due: what any other byte means, which bytes lead where
    _AFTER_SIZE: (_BAD_AFTER_SIZE, ((_BLANKS, _AFTER_SIZE), *_AFTER_EXTENSION)),
    _NAME: (_BAD_EXTENSION, ((_BLANKS, _NAME), (_TOKEN, _IN_NAME))),
    _IN_NAME: (_BAD_EXTENSION, ((_TOKEN, _IN_NAME), (_BLANKS, _AFTER_NAME), (b"=", _VALUE), *_AFTER_EXTENSION)),
    _AFTER_NAME: (_BAD_EXTENSION, ((_BLANKS, _AFTER_NAME), (b"=", _VALUE), (b";", _NAME))),
    _VALUE: (_BAD_EXTENSION, ((_BLANKS, _VALUE), (_TOKEN, _IN_VALUE), (b'"', _IN_QUOTES))),
    _IN_VALUE: (_BAD_EXTENSION, ((_TOKEN, _IN_VALUE), (_BLANKS, _AFTER_VALUE), *_AFTER_EXTENSION)),
    _AFTER_VALUE: (_BAD_EXTENSION, ((_BLANKS, _AFTER_VALUE), (b";", _NAME))),
    _IN_QUOTES: (_BAD_EXTENSION, ((_QUOTED_TEXT, _IN_QUOTES), (b"\\", _ESCAPED), (b'"', _QUOTES_ENDED))),
    _ESCAPED: (_BAD_EXTENSION, ((_TEXT, _IN_QUOTES),)),
    _QUOTES_ENDED: (_BAD_EXTENSION, ((_BLANKS, _AFTER_VALUE), *_AFTER_EXTENSION)),
    _SIZE_LF: (_BAD_LINE_END, ((b"\n", _SIZE_LINE_ENDED),)),
    _DATA_CR: (_BAD_DATA_END, ((b"\r", _DATA_LF),)),
    _DATA_LF: (_BAD_DATA_END, ((b"\n", _DIGIT),)),
    _FIELD: (_BAD_TRAILER, ((_TOKEN, _IN_FIELD_NAME), (b"\r", _LAST_LF))),
    _IN_FIELD_NAME: (_BAD_TRAILER, ((_TOKEN, _IN_FIELD_NAME), (b":", _IN_FIELD_VALUE))),
    _IN_FIELD_VALUE: (_BAD_TRAILER, ((_TEXT, _IN_FIELD_VALUE), (b"\r", _FIELD_LF))),
    _FIELD_LF: (_BAD_LINE_END, ((b"\n", _FIELD),)),
    _LAST_LF: (_BAD_LINE_END, ((b"\n", _OVER),)),
}


def _row(due: int) -> bytes:
    """By the byte that comes, what is due after it."""
    otherwise, steps = _GRAMMAR.get(due, (due, ()))
    row = bytearray([otherwise] * 256)
    for members, following in steps:
        for byte in members:
            row[byte] = following
    return bytes(row)


_ROWS = tuple(map(_row, range(_BAD_LINE_END + 1)))


class ChunkedBody:
    """The body of one request, fed as it comes."""

    __slots__ = ("_digits", "_due", "_fields", "_left", "_line_room", "_trailers_room", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []  # content that came: whoever feeds takes it and clears the list
        self.size = 0  # bytes of content so far
        self._due = _DIGIT
        self._digits = b""  # of a size that is still coming
        self._left = 0  # bytes of content that the chunk still lacks
        self._line_room = 0  # bytes that the line may still have
        self._trailers_room = MAX_TRAILERS
        self._fields = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take the next bytes of the connection: None while the body is not over, then the bytes that follow it, after
        which nothing may be fed any more. Adds at most one piece. Raises ValueError, whose text is a clause.
        """
        content: list[bytes] = []
        at = 0
        while at < len(data) and self._due != _OVER:
            if self._left:
                at = self._some_content(data, at, content)
            elif self._due == _DIGIT:
                at = self._size(data, at) if self._digits else self._whole_chunks(data, at, content)
            else:
                at = self._line(data, at)
        if content:
            piece = content[0] if len(content) == 1 else b"".join(content)
            self.size += len(piece)
            self.pieces.append(piece)
        return data[at:] if self._due == _OVER else None

    def _whole_chunks(self, data: bytes, at: int, content: list[bytes]) -> int:
        """Take the chunks that are all there, and the size of the one that is not. Returns where `data` goes on."""
        while line := _SIZE_LINE.match(data, at, at + MAX_SIZE_LINE):
            start = line.end()
            end = start + int(line[1], 16)
            if end == start:
                return self._last_chunk(data, start)
            if not data.startswith(_CRLF, end):
                self._left, self._due = end - start, _DATA_CR
                return start
            content.append(data[start:end])
            at = end + 2
        return self._size(data, at) if at < len(data) else at

    def _some_content(self, data: bytes, at: int, content: list[bytes]) -> int:
        end = min(at + self._left, len(data))
        content.append(data[at:end])
        self._left -= end - at
        return end

    def _size(self, data: bytes, at: int) -> int:
        """Take digits of a size whose line is cut or wrong."""
        run = _DIGITS.match(data, at, at + MAX_DIGITS + 1 - len(self._digits))
        assert run is not None  # it may be empty
        self._digits += run[0]
        end = run.end()
        if len(self._digits) > MAX_DIGITS or not self._digits:
            raise ValueError(_SENTENCES[_BAD_SIZE])
        if end < len(data):
            self._due, self._line_room = _AFTER_SIZE, MAX_SIZE_LINE - len(self._digits)
        return end

    def _line(self, data: bytes, at: int) -> int:
        """Take bytes of framing, up to the end of the line at most."""
        if self._due == _DATA_CR:
            self._line_room = 2
        end = data.find(b"\n", at, at + self._line_room) + 1 or min(at + self._line_room, len(data))
        due = self._due
        for byte in data[at:end]:
            due = _ROWS[due][byte]
        self._due = due
        self._line_room -= end - at
        if due in _SENTENCES:
            raise ValueError(_SENTENCES[due])
        if due == _SIZE_LINE_ENDED:
            return self._size_line_ended(data, end)
        if due == _FIELD:
            self._field_ended()
        elif self._line_room == 0 and due > _OVER:
            raise ValueError("a line of the chunked body is too long")
        return end

    def _size_line_ended(self, data: bytes, at: int) -> int:
        self._left, self._digits, self._due = int(self._digits, 16), b"", _DATA_CR
        return at if self._left else self._last_chunk(data, at)

    def _last_chunk(self, data: bytes, at: int) -> int:
        """Trailers are due, mostly none."""
        if data.startswith(_CRLF, at):
            self._due = _OVER
            return at + 2
        self._due, self._line_room = _FIELD, MAX_TRAILER
        return at

    def _field_ended(self) -> None:
        self._fields += 1
        self._trailers_room -= MAX_TRAILER - self._line_room
        self._line_room = MAX_TRAILER
        if self._fields > MAX_TRAILER_FIELDS or self._trailers_room < 0:
            raise ValueError("the chunked body has too many trailer fields")
