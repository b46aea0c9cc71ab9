"""What the proxy looks at in a JSON body, found without holding up the event loop. Pure.

A small body is decoded whole, which tells whether it is JSON at all. Of a large one the skeleton is read in steps, and
what it holds is counted in bulk: that tells the nesting, the length of numbers and the fields at the top. The engine
judges the rest, and what many parsers take although JSON has no place for it: a byte order mark before the object, NUL
bytes behind it, and in strings the escape of half a surrogate pair, which is what cutting an emoji leaves.
"""

import re
from array import array
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Generator, Iterator
from itertools import accumulate
from operator import countOf, indexOf
from typing import TypeVar

import msgspec

from slotproxy.proxy.clients.json_skeleton import BLANKS, SOUGHT, Name, skeleton, spans
from slotproxy.proxy.errors import Refusal, bad_request

SMALL = 128 * 1024  # bytes of a body that is decoded whole
STEP = 16 * 1024  # bytes of a larger one between two pauses: at most 2 ms, on a slow machine too
TEXT_STEP = 128 * 1024  # the same where only UTF-8 is looked at
MAX_DEPTH = 500  # arrays and objects within each other: parsers that call themselves fail not far beyond
MAX_DIGITS = 400  # no double has more; longer numbers only cost engines time

T = TypeVar("T")
Steps = Generator[None, None, T]


class Wanted(msgspec.Struct, frozen=True):
    """The field of a request that the proxy looks at, unparsed: what it may hold is the engine's business."""

    stream: msgspec.Raw = msgspec.Raw(b"")

    @property
    def streaming(self) -> bool:
        return bytes(self.stream) == b"true"


NOTHING = Wanted()
_STREAMING = Wanted(msgspec.Raw(b"true"))
_decoder = msgspec.json.Decoder(Wanted)


def at_once(steps: Steps[T]) -> T:
    """What `steps` come to, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def at_a_glance(body: bytes) -> Wanted | None:
    """What `looked_at` comes to, if that needs no pause; None if it does. Raises Refusal."""
    size = len(body)
    if size > SMALL:
        return None
    if not body.isascii():
        at_once(text(body))
    named = body.find(_STREAM.plain) >= 0  # `in` costs three times as much: it looks for a number first
    if (named or size > MAX_DIGITS or body.find(b"\\") >= 0) and _is_suspect(body):
        return None
    wanted = _decoded(body)
    return wanted if named or wanted.stream else NOTHING


def looked_at(body: bytes, *, step: int = STEP) -> Steps[Wanted]:
    """What the proxy wants to know of a body that has to be a JSON object. Raises Refusal."""
    if len(body) > SMALL:
        if not body.isascii():
            yield from text(body)
        return (yield from scanned(body, step=step))
    wanted = at_a_glance(body)
    if wanted is None:
        yield from scanned(body, step=step)
        wanted = _decoded(body)
    return wanted


def text(body: bytes, *, step: int = TEXT_STEP) -> Steps[Wanted]:
    """The same of a body that only has to be UTF-8."""
    decoder = getincrementaldecoder("utf-8")()
    for start in range(0, len(body), step):
        end = min(start + step, len(body))
        try:
            decoder.decode(body[start:end], final=end == len(body))
        except UnicodeDecodeError as error:
            place = end - len(error.object) + error.start
            raise bad_request("invalid_json", f"The request body is not UTF-8 (byte {place}).") from None
        yield
    return NOTHING


def scanned(body: bytes, *, step: int = STEP) -> Steps[Wanted]:
    """The same of a large body, found in its skeleton. A body that is not JSON may be refused or passed on.

    `step`: at least 64.
    """
    facts = _Facts()
    first = after_mark(body)
    for start, end in spans(body, step):
        facts.add(skeleton(body[max(start, first) : end], _STREAM))
        yield
    return facts.concluded()


def after_mark(body: bytes) -> int:
    """Where the text begins: behind the byte order mark, if there is one."""
    return len(BOM_UTF8) if body.startswith(BOM_UTF8) else 0


def _decoded(body: bytes) -> Wanted:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError:
        raise _no_object() from None
    except msgspec.DecodeError as error:
        strict = plain(body)
        if strict == body:
            raise _no_json(str(error)) from None
    except RecursionError:  # whoever calls is deep down already
        raise _too_deep() from None
    return _decoded(strict)


def plain(body: bytes) -> bytes:
    """`body` without what the engine may judge, for looking only: each byte that stays is where it was.

    \\ud800 to \\udfff become other characters. So do letters next to them, and text that only looks like an escape. It
    makes no difference: a string ends where it ended, and none becomes the name of a field that is looked for.
    """
    body = body.rstrip(BLANKS + b"\0").replace(b"\\ud", b"\\ue").replace(b"\\uD", b"\\ue")
    return b" " * (first := after_mark(body)) + body[first:]


_STREAM = Name("stream")
_NUL = b"\0"
_MEMBER = b"="  # stands for the name sought and its colon
_CHANGES = bytes.maketrans(b"[{]}" + _MEMBER, bytes((1, 1, 0xFF, 0xFF, 0)))  # of the depth, as signed bytes
_UNCHANGED = bytes(byte for byte in range(256) if byte not in b"[{]}" + _MEMBER)
_NAMED_AT_TOP = 0, 1  # a change of none, at depth 1
_TRUE = b"true,", b"true}"
_IN_WORDS = bytes(byte for byte in range(256) if byte not in b"[{]},:")  # a word is all between two of these


class _Facts:
    """What the skeleton told so far."""

    __slots__ = ("_depth", "_is_due", "_is_named", "_is_over", "_is_true", "_word")

    def __init__(self) -> None:
        self._depth = 0
        self._word = b""  # the last one: more of it may come
        self._is_over = False  # the object was closed
        self._is_named = False  # `stream` was given
        self._is_due = False  # and its value comes next
        self._is_true = False

    def add(self, piece: bytes) -> None:
        """Raises Refusal."""
        if not piece:
            return
        if self._is_over:
            if piece.strip(_NUL):
                raise _no_json("something follows the object")
            return
        if not self._depth and not piece.startswith(b"{"):
            raise _no_object()
        piece = self._word + piece
        text = piece.rstrip(_NUL)
        _refuse_long_words(text if text.endswith(b"}") else piece)  # any number of them may follow the object
        words = piece.rstrip(_IN_WORDS)
        self._word = piece[len(words) :]
        if words:
            self._read(words.replace(SOUGHT + b":", _MEMBER))

    def concluded(self) -> Wanted:
        """Raises Refusal."""
        if self._is_over:
            return _STREAMING if self._is_true else NOTHING
        raise _no_json("it ends too early") if self._depth else _no_object()

    def _read(self, words: bytes) -> None:
        if self._is_due:
            self._value(words)
        opened = words.count(b"[") + words.count(b"{")
        closed = words.count(b"]") + words.count(b"}")
        lowest = self._depth - closed  # or higher
        if self._depth + opened > MAX_DEPTH or lowest <= 0 or (lowest == 1 and _MEMBER in words):
            self._look(words, lowest)
        self._depth += opened - closed

    def _look(self, words: bytes, lowest: int) -> None:
        changes = array("b", words.translate(_CHANGES, _UNCHANGED))
        if max(accumulate(changes, initial=self._depth)) > MAX_DEPTH:
            raise _too_deep()
        if lowest <= 1 and _MEMBER in words:
            self._find(words, changes)
        if lowest <= 0 and 0 in (depths := list(accumulate(changes, initial=self._depth))[1:]):
            self._is_over = True
            if depths.index(0) < len(depths) - 1 or self._word.strip(_NUL) or not words.endswith(b"}"):
                raise _no_json("something follows the object")

    def _find(self, words: bytes, changes: "array[int]") -> None:
        def at_top() -> Iterator[tuple[int, int]]:
            return zip(changes, accumulate(changes, initial=self._depth), strict=False)

        if count := countOf(at_top(), _NAMED_AT_TOP):
            self._name(count)
            before = changes[: indexOf(at_top(), _NAMED_AT_TOP)].count(0)
            self._value(words.split(_MEMBER, before + 1)[-1])

    def _name(self, times: int) -> None:
        if self._is_named or times > 1:  # proxy and engine could disagree about which of two counts
            raise bad_request("invalid_json", "The field 'stream' is given twice.", param="stream")
        self._is_named = True

    def _value(self, words: bytes) -> None:
        self._is_due, self._is_true = not words, words[:5] in _TRUE


_DIGITS = b"0123456789"
_NO_DIGITS = bytes(byte for byte in range(256) if byte not in _DIGITS)
_LONGEST_WORD = MAX_DIGITS + 4  # bytes of a number: its digits, "-", ".", "e" and "-"
_STRIDE = 100


class _Runs:
    """Runs of more than MAX_DIGITS bytes that are all of one kind."""

    __slots__ = ("_runs", "_samples")

    def __init__(self, kind: bytes) -> None:
        self._samples = re.compile(rb"%b{%d,}" % (kind, MAX_DIGITS // _STRIDE))
        self._runs = re.compile(rb"(?<!%b)%b{%d,}" % (kind, kind, MAX_DIGITS + 1))

    def of(self, text: bytes) -> Iterator[bytes]:
        """Looks at every hundredth byte first: a run that long shows in four of them, and a search through every byte
        of a large prompt costs more than sending it on.
        """
        for samples in self._samples.finditer(text[::_STRIDE]):
            near = max(0, samples.start() - 1) * _STRIDE, (samples.end() + 1) * _STRIDE
            yield from (run[0] for run in self._runs.finditer(text, *near))


_LONG_NUMBERS = _Runs(rb"[-+.0-9eE]")
_LONG_WORDS = _Runs(rb"[^\[\]{},:]")


def _is_suspect(body: bytes) -> bool:
    """Whether there may be something that decoding does not tell, or fails at."""
    if body.count(_STREAM.plain) > 1 or _STREAM.may_be_escaped_in(body):
        return True
    if len(body) <= MAX_DIGITS:
        return False
    return body.count(b"[") + body.count(b"{") > MAX_DEPTH or any(_LONG_NUMBERS.of(body))


def _refuse_long_words(words: bytes) -> None:
    """Raises Refusal for what is longer than a number may be, and so is none or too long a number."""
    if len(words) <= MAX_DIGITS:
        return
    for word in _LONG_WORDS.of(words):
        if len(word.translate(None, _NO_DIGITS)) > MAX_DIGITS:
            raise bad_request("invalid_json", f"A number of the request body has more than {MAX_DIGITS} digits.")
        if len(word) > _LONGEST_WORD:
            raise _no_json("it holds what is neither a string nor a number")


def _no_object() -> Refusal:
    return bad_request("invalid_json", "The request body must be a JSON object.")


def _no_json(why: str) -> Refusal:
    return bad_request("invalid_json", f"The request body is not valid JSON: {why}.")


def _too_deep() -> Refusal:
    return bad_request("invalid_json", f"The request body is nested deeper than {MAX_DEPTH} levels.")
