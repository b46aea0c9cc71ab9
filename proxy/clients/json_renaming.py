"""A JSON body with another model as the one it names, without holding up the event loop. Pure.

A small body is taken apart and put together again; of a large one only the places are found where pieces of it end.
"""

import re
from collections.abc import Iterator

import msgspec

from slotproxy.proxy.clients.json_body import SMALL, Steps, after_mark, at_once, plain
from slotproxy.proxy.clients.json_skeleton import Name, skeleton, spans
from slotproxy.proxy.errors import bad_request

STEP = 4 * 1024  # bytes between two pauses: at most 2 ms, on a slow machine too
MOST = 16  # times that a body may name a model

_MODEL = Name("model")
_TOKEN = re.compile(rb'"(?:[^"\\]*(?:\\.[^"\\]*)*")?|[\[\]{},:]', re.DOTALL)
_QUOTE, _COMMA = b'",'
_OPENING, _CLOSING = b"[{", b"]}"


_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def takes_long(body: bytes) -> bool:
    """Whether `renamed_pieces` of it are better taken with pauses."""
    return len(body) > SMALL or (len(body) > STEP and plain(body) != body)


def renamed(body: bytes, model: str) -> bytes:
    """`body` with `model` as the model it names, all else as it was; unchanged where it is no object. Raises
    Refusal if it names too many.
    """
    return b"".join(at_once(renamed_pieces(body, model)))


def renamed_pieces(body: bytes, model: str) -> Steps[list[bytes | memoryview]]:
    """The same in pieces: to put a large body together would take long."""
    if len(body) > SMALL:
        return (yield from spliced(body, model))
    try:
        members = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        if plain(body) == body:
            return [body]
        return (yield from spliced(body, model))  # engines may be less strict than this decoder
    except RecursionError:  # not for this way of reading
        return (yield from spliced(body, model))
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    return [msgspec.json.encode(members)]


def spliced(body: bytes, model: str, *, step: int = STEP) -> Steps[list[bytes | memoryview]]:
    """The same of a large body. `step`: at least 64."""
    members = _Members()
    first = after_mark(body)
    for start, end in spans(body, step):
        piece = skeleton(body[max(start, first) : end])
        if piece:
            if not members.opening and not piece.startswith(b"{"):
                return [body]
            members.add(body, start, end, piece)
        yield
    return list(_pieces(body, members, msgspec.json.encode(model)))


class _Members:
    """What was found of the object at the top."""

    __slots__ = ("_depth", "_is_named", "_start", "is_empty", "opening", "values")

    def __init__(self) -> None:
        self.opening = 0  # where its first member begins, or would
        self.is_empty = True
        self.values: list[tuple[int, int]] = []  # where the values of members named "model" begin and end
        self._depth = 0
        self._is_named = False  # the last string at the top was "model"
        self._start: int | None = None  # of the value of such a member

    @property
    def is_whole(self) -> bool:
        return self.opening > 0 and not self._depth

    def add(self, body: bytes, start: int, end: int, piece: bytes) -> None:
        """Raises Refusal. `piece`: the skeleton of what lies between `start` and `end`."""
        closed = piece.count(b"]") + piece.count(b"}")
        if self._depth - closed > 1 or self._is_of_others(body[start:end]):
            self._depth += piece.count(b"[") + piece.count(b"{") - closed
            self.is_empty = self.is_empty and b'"' not in piece
            return
        for token in _TOKEN.finditer(body, start, end):
            kind = body[token.start()]
            if kind in _OPENING:
                self._depth += 1
                self.opening = self.opening or token.end()
            elif kind in _CLOSING:
                self._depth -= 1
                if not self._depth:
                    self._value_ended(token.start())
            elif self._depth == 1:
                self._at_top(kind, token)

    def _is_of_others(self, text: bytes) -> bool:
        """Whether it belongs to members of other names."""
        return self.opening > 0 and not self._is_named and self._start is None and not _MODEL.may_be_in(text)

    def _at_top(self, kind: int, token: re.Match[bytes]) -> None:
        if kind == _QUOTE:
            self.is_empty = False
            self._is_named = _MODEL.spelled.fullmatch(token[0]) is not None
        elif kind == _COMMA:
            self._value_ended(token.start())
        elif self._is_named:
            self._start = token.end()

    def _value_ended(self, place: int) -> None:
        if self._start is not None:
            self.values.append((self._start, place))
            self._start = None
            if len(self.values) > MOST:
                raise bad_request("invalid_json", f"The field 'model' is given more than {MOST} times.", param="model")


def _pieces(body: bytes, members: _Members, name: bytes) -> Iterator[bytes | memoryview]:
    view = memoryview(body)
    at = 0
    if not members.values and members.is_whole:
        yield from (view[: members.opening], b'"model":', name, b"" if members.is_empty else b",")
        at = members.opening
    for start, end in members.values:
        yield from (view[at:start], name)
        at = end
    yield view[at:]
