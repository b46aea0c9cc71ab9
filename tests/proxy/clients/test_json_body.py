"""What is refused of a JSON body and what is found in it: the standard library judges the same text beside it."""

import inspect
import json
import sys
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slotproxy.proxy.clients.json_body import (
    MAX_DEPTH,
    MAX_DIGITS,
    SMALL,
    STEP,
    at_a_glance,
    at_once,
    looked_at,
    scanned,
    text,
)
from slotproxy.proxy.errors import Refusal
from tests.proxy.clients.json_texts import ANYTHING, TEXTS, VALUES, Number, Pairs, counted, parsed

STEPS = st.integers(64, 2000)
NOT_JSON = "The request body is not valid JSON: "


def verdict(body: bytes, step: int | None = None) -> bool | str:
    """Whether it asks for a stream, or what it is refused for. `step`: as if it were large."""
    try:
        return at_once(looked_at(body) if step is None else scanned(body, step=step)).streaming
    except Refusal as refusal:
        return said(refusal)


def said(refusal: Refusal) -> str:
    assert (refusal.status, refusal.code, refusal.close) == (400, "invalid_json", False)
    assert (refusal.param == "stream") == ("'stream'" in refusal.message)
    return refusal.message


def depth(value: object) -> int:
    if isinstance(value, Pairs):
        return 1 + max((depth(member) for _, member in value), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def numbers(value: object) -> Iterator[Number]:
    if isinstance(value, Number):
        yield value
    elif isinstance(value, list):
        for member in value:
            yield from numbers(member[1] if isinstance(value, Pairs) else member)


def faults(value: object) -> set[str]:
    """What there is to be said against a text that holds `value`."""
    found = set()
    if not isinstance(value, Pairs):
        found.add("The request body must be a JSON object.")
    elif [name for name, _ in value].count("stream") > 1:
        found.add("The field 'stream' is given twice.")
    if depth(value) > MAX_DEPTH:
        found.add(f"The request body is nested deeper than {MAX_DEPTH} levels.")
    if any(sum(map(str.isdigit, number)) > MAX_DIGITS for number in numbers(value)):
        found.add(f"A number of the request body has more than {MAX_DIGITS} digits.")
    return found


@given(TEXTS | VALUES.map(str.encode), STEPS)
def test_a_body_read_whole_or_in_steps_of_any_size_is_judged_as_its_parsed_value_is(body: bytes, step: int) -> None:
    value = parsed(body)
    wrong = faults(value)
    for found in (verdict(body), verdict(body, step), verdict(body, STEP)):
        if wrong:
            assert found in wrong
        else:
            assert isinstance(value, Pairs)
            assert found is (dict(value).get("stream") is True)


@given(ANYTHING, STEPS)
def test_whatever_comes_is_refused_or_passes_and_the_size_of_a_step_does_not_matter(body: bytes, step: int) -> None:
    found = verdict(body, step)
    other = verdict(body, STEP)
    assert found == other or (isinstance(found, str) and isinstance(other, str))
    whole = verdict(body)
    if not isinstance(whole, str):
        assert found == whole


@given(ANYTHING, STEPS)
def test_a_small_body_that_is_no_json_is_always_refused(body: bytes, step: int) -> None:
    try:
        json.loads(body.rstrip(b"\0 \t\r\n"))  # NUL bytes behind an object are the engine's to judge
        assume(False)
    except ValueError:
        assert isinstance(verdict(body), str)


MARK = b"\xef\xbb\xbf"
TRAILING = st.text("\0\0 \n", max_size=4).map(str.encode) | st.sampled_from((b"\0" * 64, b"\0" * 70_000))


@given(TEXTS | VALUES.map(str.encode), st.booleans(), TRAILING, STEPS)
def test_a_byte_order_mark_before_and_nul_bytes_behind_make_no_difference(
    body: bytes, marked: bool, after: bytes, step: int
) -> None:
    wrong = faults(parsed(body))
    around = MARK * marked + body + after
    for plain, found in (
        (verdict(body), verdict(around)),
        (verdict(body, step), verdict(around, step)),
        (verdict(body, STEP), verdict(around, STEP)),
    ):
        assert found == plain or {found, plain} <= wrong


@given(
    TEXTS,
    st.lists(st.sampled_from(("\\ud83d", "\\uDFFF", "\\udc00\\ud800", '\\\\\\"\\uD800')), min_size=1),
    st.booleans(),
    STEPS,
)
def test_half_a_surrogate_pair_makes_no_difference(body: bytes, halves: list[str], in_name: bool, step: int) -> None:
    cut = '"' + "x".join(halves) + '"'
    member = f'{cut}:"\\ud83d\\ude00"' if in_name else f'"cut":[{cut}]'
    json.loads("{" + member + "}")
    inside = body.lstrip()[1:]
    with_cut = ("{" + member + ("" if inside.lstrip().startswith(b"}") else ",")).encode() + inside
    without = b'{"cut":[""]' + (b"" if inside.lstrip().startswith(b"}") else b",") + inside
    wrong = faults(parsed(body))
    for found, plain in ((verdict(with_cut), verdict(without)), (verdict(with_cut, step), verdict(without, step))):
        assert found == plain or {found, plain} <= wrong


@pytest.mark.parametrize(
    "body",
    [
        *(MARK, MARK + MARK + b"{}", b" " + MARK + b"{}", b"{}" + MARK, MARK + b"[]", MARK + b"{", b"\0{}", b"{}\0{}"),
        *(b"{\0}\0", b"{}\0,", b"\0", b'{"a":"\\ud83d"', b'{"a":"\\ud83d"}]', b'{"a":"\\ud83d",}', b'{"a":"\\ud83"}'),
        *(b'{"a":"\\ud83d",\\ud83d}', b'{"a":"\\ud83d","b":NaN}', b'{"a":"\xed\xa0\xbd"}', b'{"a":"\\ud83d\xff"}'),
        b'{"a":"\\ud83d","stream":true,"stream":false}',
        b'{"a":"\\ud83d","b":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a":"\\ud83d","b":' + b"1" * 401 + b"}\0",
    ],
)
def test_what_else_is_wrong_is_refused_all_the_same(body: bytes) -> None:
    assert isinstance(verdict(body), str)


@pytest.mark.parametrize(
    "body",
    [
        *(MARK + b"[]", MARK + MARK + b"{}", b"{}\0{}", b"{}\0,", b"\0{}", b"{}" + MARK),
        *(b"{}" + blanks * 2 * STEP + b"7" for blanks in (b" ", b"\0")),
    ],
)
def test_and_of_a_large_body_what_is_around_the_object(body: bytes) -> None:
    assert isinstance(verdict(body, 64), str)
    assert isinstance(verdict(body, STEP), str)


def test_a_mistake_behind_a_byte_order_mark_is_told_by_its_place_in_the_body_as_it_came() -> None:
    assert verdict(MARK + b'{"a":NaN}') == f"{NOT_JSON}JSON is malformed: invalid character (byte 8)."


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.binary(max_size=6), st.integers(1, 70))
def test_the_first_byte_that_is_not_utf8_is_named_wherever_a_step_ends(before: bytes, body: bytes, step: int) -> None:
    body = before + body
    if (place := first_wrong(body)) is None:
        at_once(text(body, step=step))
        return
    with pytest.raises(Refusal) as refused:
        at_once(text(body, step=step))
    assert said(refused.value) == f"The request body is not UTF-8 (byte {place})."


def first_wrong(body: bytes) -> int | None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def large(start: bytes, end: bytes, filler: bytes = b'"%d",', size: int = 2 * SMALL) -> bytes:
    return start + b'"filler":[' + filler * (size // len(filler)) + b"0]" + end


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", False),
        (b' \n{"stream" : true } ', True),
        (b'{"stream":true,"a":1}', True),
        (b'{"stream":false}', False),
        (b'{"stream":"true"}', False),
        (b'{"stream":[true]}', False),
        (b'{"a":{"stream":true}}', False),
        (b'{"a":{"stream":1},"stream":true,"b":[{"stream":2}]}', True),
        (b'{"a":"stream","stream":true}', True),
        (b'{"a":["stream","stream"],"b":"stream"}', False),
        (b'{"str\\u0065am":true}', True),
        (b'{"a":"{\\"stream\\":true,\\"stream\\":true}"}', False),
        (b'{"stream":1,"str\\u0065am":1}', "The field 'stream' is given twice."),
        (b'{"\\u0073tream":1,"a":{},"\\u0073tream":1}', "The field 'stream' is given twice."),
        (b"[]", "The request body must be a JSON object."),
        (b'"{}"', "The request body must be a JSON object."),
        (b"7", "The request body must be a JSON object."),
        (b'{"a":' + b"1" * 400 + b"}", False),
        (b'{"a":"' + b"1" * 4000 + b'"}', False),
        (b'{"a":' + b"1" * 401 + b"}", "A number of the request body has more than 400 digits."),
        (b'{"a":' + b"[" * 499 + b"]" * 499 + b"}", False),
        (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "The request body is nested deeper than 500 levels."),
        (b'{"a":[' + b"[]," * 900 + b"0]}", False),
        (b'{"a":"' + b"[" * 900 + b'"}', False),
    ],
)
def test_what_is_found_in_a_body(body: bytes, expected: bool | str) -> None:
    assert verdict(body) == expected
    assert verdict(body, STEP) == expected
    assert verdict(body, 64) == expected


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{", b'{"a":"', b'{"a":1}{', b"{}]", b'{"a":1} 2', b'{"a":1},', b"{}{}", b"\xff{}"]
)
def test_what_is_no_json_object_is_refused_in_a_large_body_too(body: bytes) -> None:
    assert isinstance(verdict(body), str)
    assert isinstance(verdict(body, STEP), str)
    assert isinstance(verdict(body, 64), str)


def test_a_small_body_that_is_no_json_is_told_where() -> None:
    assert verdict(b'{"a":NaN}') == f"{NOT_JSON}JSON is malformed: invalid character (byte 5)."
    assert verdict(b"{") == f"{NOT_JSON}Input data was truncated."


def test_a_word_too_long_for_any_number_is_no_json_wherever_it_is_cut() -> None:
    for word in (b"1" * 300 + b"e" * 300, b"x" * 100_000, b'"' * 405):
        for step in (64, STEP):
            assert str(verdict(b'{"a":' + word + b"}", step)).startswith(NOT_JSON)


@pytest.mark.parametrize("body", [b"[" * 60_000, b"[" * 200_000, b'{"a":' * 12_000, b'{"a":' * 100_000])
def test_very_deep_nesting_is_refused_and_nothing_else(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        at_once(looked_at(body))
    assert refused.value.status == 400


def test_nesting_that_only_a_deep_caller_cannot_follow_is_refused_too() -> None:
    body = b'{"a":' + b"[" * 450 + b"]" * 450 + b"}"

    def from_below(frames: int) -> bool | str:
        return from_below(frames - 1) if frames else verdict(body)

    frames = sys.getrecursionlimit() - len(inspect.stack()) - 200
    assert from_below(frames) in (False, f"The request body is nested deeper than {MAX_DEPTH} levels.")


@given(st.integers(398, 403), st.integers(0, 300), st.sampled_from((b"", b"7 ,", b'"0123456789abcdef",', b"123.5e7,")))
def test_a_long_number_is_found_wherever_it_stands(digits: int, before: int, noise: bytes) -> None:
    body = b'{"' + b"x" * before + b'":[' + noise * 40 + b"9" * digits + b"," + noise * 40 + b"0]}"
    for found in (verdict(body), verdict(body, STEP), verdict(body, 64)):
        assert isinstance(found, str) == (digits > MAX_DIGITS)


@pytest.mark.parametrize(
    "body",
    [
        large(b'{"stream":true,', b"}"),
        large(b"{", b',"stream":true}', b"{},"),
        large(b"{", b',"str\\u0065am":true}', b'{"stream":true},'),
        large(
            b'{"content":"' + b'\\"' * SMALL + b'",',
            b',"stream":\n' + b" " * SMALL + b"true}",
            "ä€😀,".encode().join((b'"', b'",')),
        ),
    ],
)
def test_a_large_body_is_read_in_steps(body: bytes) -> None:
    assert json.loads(body)["stream"] is True
    wanted, pauses = counted(looked_at(body))
    assert wanted.streaming
    assert pauses >= len(body) // STEP


@pytest.mark.parametrize(
    "body", [b'{"stream":true}', b'{"stream":true,"a":"' + b"\\u00e4" * 9000 + b'"}', b'{"stream":true,"a":["stream"]}']
)
def test_a_small_body_is_mostly_read_without_a_pause(body: bytes) -> None:
    wanted, pauses = counted(looked_at(body))
    assert wanted.streaming
    glance = at_a_glance(body)
    assert (glance is None) == (pauses > 0) == body.endswith(b'["stream"]}')
    assert glance in (None, wanted)


def test_only_a_small_body_can_be_judged_at_a_glance() -> None:
    assert at_a_glance(large(b"{", b"}", size=SMALL // 2)) is not None
    assert at_a_glance(large(b"{", b"}", size=SMALL)) is None


def test_a_large_body_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(Refusal, match="not UTF-8"):
        at_once(looked_at(large(b"{", b',"a":"\xff"}')))
