"""How a JSON text is cut; what is made of the pieces is tested beside `json_body` and `json_renaming`."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotproxy.proxy.clients.json_skeleton import Name, skeleton, spans
from tests.proxy.clients.json_texts import ANYTHING, TEXTS

STEPS = st.integers(64, 400)


def pieces(body: bytes, step: int, name: Name | None = None) -> bytes:
    return b"".join(skeleton(body[start:end], name) for start, end in spans(body, step))


@given(ANYTHING | TEXTS, STEPS)
@example(b'"' + b"\\" * 1000, 64)
@example(b'"' + b'\\"' * 1000 + b'"', 65)
@example(b'{"a":"' + b"x" * 1000, 64)
def test_pieces_come_in_order_and_none_takes_more_than_a_step(body: bytes, step: int) -> None:
    at = 0
    for start, end in spans(body, step):
        assert at <= start <= end <= start + step
        assert start - at <= step + 1
        at = end
    assert len(body) - at <= step + 2


@given(TEXTS, STEPS)
def test_what_is_left_of_a_text_is_all_but_its_blanks_and_what_its_strings_hold(body: bytes, step: int) -> None:
    strings = re.compile(r'"(?:[^"\\]|\\.)*"')
    assert pieces(body, step) == re.sub(r"\s", "", strings.sub('"', body.decode())).encode()


@given(ANYTHING, STEPS)
def test_no_text_at_all_gives_another_skeleton_where_it_is_cut_otherwise(body: bytes, step: int) -> None:
    for name in (None, Name("stream")):
        assert pieces(body, step, name) == pieces(body, 10_000, name)


@pytest.mark.parametrize("escaped", range(64))
def test_a_name_is_found_in_any_spelling(escaped: int) -> None:
    letters = [
        f"\\u{ord(letter):04{'xX'[escaped % 2]}}" if escaped >> at & 1 else letter for at, letter in enumerate("stream")
    ]
    text = f'"{"".join(letters)}"'
    assert json.loads(text) == "stream"
    assert skeleton(text.encode(), Name("stream")) == b"@"
    assert Name("stream").spelled.fullmatch(text.encode())


@pytest.mark.parametrize(
    "text", ['"Stream"', '"stream "', '"strea"', '"\\"stream"', '"\\\\u0073tream"', '"\\u0053tream"']
)
def test_and_nothing_else_is_taken_for_it(text: str) -> None:
    assert skeleton(text.encode(), Name("stream")) == b'"'
    assert not Name("stream").spelled.fullmatch(text.encode())
