"""A JSON text cut into pieces that are read one after the other, none of them within a string. Pure.

Nothing here takes longer than in proportion to a piece, whatever the text holds, and nothing raises: what is made of a
text that is no JSON depends on the text alone, not on where it is cut.
"""

import re
from collections.abc import Iterator

BLANKS = b" \t\n\r"
OTHER, SOUGHT = b'"', b"@"  # what stands in a skeleton for a string, and for one that is the name sought

_REST = rb'[^"\\]*(?:\\.[^"\\]*)*'  # of a string
_STRING = re.compile(rb'"%b"' % _REST, re.DOTALL)
_WITHIN = re.compile(_REST, re.DOTALL)
_WHOLE_STRINGS = re.compile(rb'(?:[^"]+|"%b")*' % _REST, re.DOTALL)  # and all between them


def spans(body: bytes, step: int) -> Iterator[tuple[int, int]]:
    """Where each piece begins and ends: in order, nothing left out but the inside of strings longer than `step` bytes.
    Of such a string the opening quote is one piece; empty pieces follow, at most `step` bytes apart.
    """
    at = 0
    while at < len(body):
        end = _outside(body, at, step)
        if end > at:
            yield at, end
            at = end
        else:
            yield at, at + 1
            at += 1
            while (end := _within(body, at, step)) > at:
                yield end, end
                at = end
            at += 1  # the closing quote


def _outside(body: bytes, at: int, step: int) -> int:
    """The last place within `step` that is in no string, if `at` is in none."""
    piece = body[at : at + step]
    if b"\\" in piece:
        return _end(_WHOLE_STRINGS, body, at, step)
    return at + (piece.rfind(b'"') if piece.count(b'"') % 2 else len(piece))


def _within(body: bytes, at: int, step: int) -> int:
    """How far the string that `at` is in goes on within `step`; `at` where it is over."""
    piece = body[at : at + step]
    if piece.find(b"\\") >= 0:
        return _end(_WITHIN, body, at, step)
    quote = piece.find(b'"')  # many times as fast as a pattern, and most text has no escapes for long
    return at + (len(piece) if quote < 0 else quote)


def _end(pattern: re.Pattern[bytes], body: bytes, at: int, step: int) -> int:
    found = pattern.match(body, at, at + step)
    assert found is not None  # these patterns match nothing, too
    return found.end()


class Name:
    """The name of a member, however it is spelled."""

    __slots__ = ("_escapes", "_string", "plain", "spelled")

    def __init__(self, name: str) -> None:
        letters = b"".join(map(_letter, name))
        self.spelled = re.compile(rb'"%b"' % letters)
        self._string = re.compile(rb'"(?:(%b)"|%b")' % (letters, _REST), re.DOTALL)
        self.plain = f'"{name}"'.encode()
        self._escapes = sorted({b"\\u00%x" % (ord(letter) >> 4) for letter in name})  # as those of its letters begin

    def may_be_escaped_in(self, text: bytes) -> bool:
        return b"\\u00" in text and any(escape in text for escape in self._escapes)

    def may_be_in(self, text: bytes) -> bool:
        """Whether it is worth to look closely."""
        return self.plain in text or self.may_be_escaped_in(text)

    def marked(self, text: bytes) -> bytes:
        return self._string.sub(_mark, text)


def _letter(letter: str) -> bytes:
    code = "".join(f"[{digit}{digit.upper()}]" for digit in f"{ord(letter):04x}")
    return rf"(?:{letter}|\\u{code})".encode()


def _mark(string: re.Match[bytes]) -> bytes:
    return SOUGHT if string.lastindex else OTHER


def skeleton(piece: bytes, name: Name | None = None) -> bytes:
    """`piece` without blanks, and with one byte for each string."""
    if name is not None and name.may_be_in(piece):
        piece = name.marked(piece)
    elif b"\\" in piece:
        piece = _STRING.sub(OTHER, piece)
    else:  # several times as fast
        parts = piece.split(b'"')
        piece = OTHER.join(parts[::2]) + (b"" if len(parts) % 2 else OTHER)
    return piece.translate(None, BLANKS)
