"""JSON texts as clients may write them: any spelling, blanks anywhere, members twice."""

import json
from typing import TypeVar

from hypothesis import strategies as st

from slotproxy.proxy.clients.json_body import Steps

T = TypeVar("T")
BLANKS = st.sampled_from(("", "", "", " ", "\n", "\t\r\n  ", " " * 90))
NAMES = st.sampled_from(("stream", "model", "stream ", "s", "Stream", "stream\\", '"stream"', "messages")) | st.text(
    max_size=6
)
STRINGS = NAMES | st.sampled_from(('\\"', "\\" * 7, '{"stream":true}', "9" * 500, "[" * 600, "}]," * 30, "ä€😀" * 40))


class Pairs(list[tuple[str, object]]):
    """The members of an object."""


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """A string, some of its characters as escapes."""
    if not draw(st.booleans()):
        return json.dumps(text, ensure_ascii=draw(st.booleans()))
    out = ""
    for letter in text[:40]:
        code = f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else json.dumps(letter)[1:-1]
        plain = json.dumps(letter, ensure_ascii=False)[1:-1]
        out += draw(st.sampled_from((plain, code, "\\u" + code[2:].upper() if len(code) == 6 else code)))
    return f'"{out}"'


@st.composite
def joined(draw: st.DrawFn, parts: list[str], opening: str, closing: str) -> str:
    inside = ",".join(draw(BLANKS) + part + draw(BLANKS) for part in parts) or draw(BLANKS)
    return opening + inside + closing


@st.composite
def members(draw: st.DrawFn, value: str) -> str:
    return draw(NAMES.flatmap(spelled)) + draw(BLANKS) + ":" + draw(BLANKS) + value


@st.composite
def deep(draw: st.DrawFn, value: str) -> str:
    levels = draw(st.sampled_from((1, 2, 490, 497, 498, 499, 500, 501, 600)))
    opening, closing = draw(st.sampled_from((("[", "]"), ('{"stream":', "}"), ('[{"a" :', "}]"))))
    levels //= opening.count("[") + opening.count("{")
    return opening * levels + value + closing * levels


NUMBERS = st.sampled_from(
    (
        *("1" * 400, "-" + "1" * 400, "1" * 401, "1." + "2" * 399, "-1." + "2" * 399, "1." + "2" * 400),
        *("0." + "1" * 396 + "e-123", "-0." + "1" * 396 + "E-123", "0." + "1" * 397 + "e+123", "9" * 5000),
    )
) | st.floats(allow_nan=False, allow_infinity=False).map(json.dumps)
SCALARS = st.sampled_from(("true", "false", "null", "1", "-0.5e+7")) | STRINGS.flatmap(spelled)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).flatmap(lambda parts: joined(parts, "[", "]"))
        | st.lists(inner.flatmap(members), max_size=4).flatmap(lambda parts: joined(parts, "{", "}"))
    ),
    max_leaves=12,
)
HEAVY = VALUES | VALUES | VALUES.flatmap(deep) | NUMBERS
OBJECTS = st.lists(HEAVY.flatmap(members), max_size=5).flatmap(lambda parts: joined(parts, "{", "}"))
TEXTS = st.tuples(BLANKS, OBJECTS, BLANKS).map("".join).map(str.encode)
BROKEN = st.tuples(TEXTS, st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=2)), max_size=3)).map(
    lambda case: _broken(*case)
)
ANYTHING = st.binary(max_size=300) | st.text('{}[]",:\\@=tru1 e', max_size=300).map(str.encode) | BROKEN


def _broken(text: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for place, instead in changes:
        at = place % (len(text) + 1)
        text = text[:at] + instead + text[at + 1 :]
    return text


def counted(steps: Steps[T]) -> tuple[T, int]:
    """What they come to, and how many pauses there were."""
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, pauses
        pauses += 1


def parsed(text: bytes) -> object:
    """By the standard library; numbers stay text, objects are `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs, parse_int=Number, parse_float=Number)


class Number(str):
    """A number as it was written."""

    __slots__ = ()
