import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.clients.json_body import SMALL, at_once
from slotproxy.proxy.clients.json_renaming import MOST, STEP, renamed, renamed_pieces, spliced, takes_long
from slotproxy.proxy.errors import Refusal
from tests.proxy.clients.json_texts import ANYTHING, TEXTS, VALUES, Pairs, counted, parsed


@given(TEXTS | VALUES.map(str.encode), st.text(max_size=8), st.integers(64, 2000))
def test_every_member_that_names_a_model_names_another_and_the_rest_is_as_it_was(
    body: bytes, model: str, step: int
) -> None:
    value = parsed(body)
    changed = b"".join(at_once(spliced(body, model, step=step)))
    assert changed == b"".join(at_once(spliced(body, model)))
    if not isinstance(value, Pairs):
        assert changed == body
    elif any(name == "model" for name, _ in value):
        assert parsed(changed) == [(name, model if name == "model" else member) for name, member in value]
    else:
        assert parsed(changed) == [("model", model), *value]
        opening = body.index(b"{") + 1
        assert (changed[:opening], changed[len(changed) - len(body) + opening :]) == (body[:opening], body[opening:])


@given(TEXTS, st.text(max_size=8))
def test_a_small_body_taken_apart_says_the_same(body: bytes, model: str) -> None:
    assert json_of(renamed(body, model)) == json_of(b"".join(at_once(spliced(body, model))))


@given(ANYTHING, st.integers(64, 2000))
def test_whatever_comes_gives_bytes_and_the_size_of_a_step_does_not_matter(body: bytes, step: int) -> None:
    assert isinstance(renamed(body, "m"), bytes)
    assert b"".join(at_once(spliced(body, "m", step=step))) == b"".join(at_once(spliced(body, "m")))


def json_of(body: bytes) -> dict[str, object]:
    """Its members, the last of each name."""
    value = parsed(body)
    assert isinstance(value, Pairs)
    return dict(value)


def test_only_the_model_changes_and_every_other_byte_stays() -> None:
    rest = b', "seed":  1e0, "messages": [ {"content": "\\u00e4 \xc3\xa4", "model": "x"} ], "n": 12345678901234567890}'
    changed = b"".join(at_once(spliced(b'{"model":"gpt-4"' + rest, 'a "name"')))
    assert changed == b'{"model":"a \\"name\\""' + rest
    changed = renamed(b'{"model":"gpt-4"' + rest, 'a "name"')
    assert json.loads(changed) == json.loads(b"{" + rest[1:]) | {"model": 'a "name"'}
    for value in (b"1e0", b'[ {"content": "\\u00e4 \xc3\xa4", "model": "x"} ]', b"12345678901234567890"):
        assert value in changed


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b"{}", b'{"model":"m"}'),
        (b" { } ", b' {"model":"m" } '),
        (b'{"a":1}', b'{"model":"m","a":1}'),
        (
            b'{"model":1,"a":{"model":2},"mod\\u0065l":[3,{"model":4}]}',
            b'{"model":"m","a":{"model":2},"mod\\u0065l":"m"}',
        ),
        (b'{"a":"model","b":1}', b'{"model":"m","a":"model","b":1}'),
        (b'{"model":"costly"', b'{"model":"costly"'),
        (b'{"model":"costly","a"', b'{"model":"m","a"'),
    ],
)
def test_which_members_are_found(body: bytes, changed: bytes) -> None:
    assert b"".join(at_once(spliced(body, "m"))) == changed
    assert b"".join(at_once(spliced(body, "m", step=64))) == changed


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"model":"costly","a":1}',
        b'\xef\xbb\xbf {"a":1}',
        b'{"model":"costly","a":"\\ud83d"}',
        b'{"a":"\\udc00"}',
        b'{"model":"costly"}\0\0',
    ],
)
def test_what_only_the_engine_judges_does_not_keep_the_model_from_being_named(body: bytes) -> None:
    expected = body.replace(b'"costly"', b'"m"') if b"model" in body else body.replace(b"{", b'{"model":"m",')
    assert renamed(body, "m") == expected
    assert b"".join(at_once(spliced(body, "m"))) == expected


@pytest.mark.parametrize("body", [b"", b" ", b"[1]", b'"text"', b"{broken", b"\x1f\x8b compressed", b'[{"model":1}]'])
def test_what_is_no_object_stays_as_it_is(body: bytes) -> None:
    assert renamed(body, "m") == body
    assert b"".join(at_once(spliced(body, "m"))) == body


def test_a_small_body_that_is_no_json_stays_as_it_is() -> None:
    for body in (b'{"model":"costly",}', b'{"model":"costly"', b'{"model":"costly"}}'):
        assert renamed(body, "m") == body


def test_a_large_body_that_names_very_many_models_is_refused() -> None:
    names = [b'"model":1'] * MOST
    assert json.loads(b"".join(at_once(spliced(b"{" + b",".join(names) + b"}", "m")))) == {"model": "m"}
    with pytest.raises(Refusal) as refused:
        at_once(spliced(b"{" + b",".join([*names, b'"model":1']) + b"}", "m"))
    assert (refused.value.status, refused.value.param) == (400, "model")


@pytest.mark.parametrize(
    "body", [b'{"model":1,"a":' + b"[" * 5000, b'{"a":' + b"[" * 5000 + b"]" * 5000 + b',"model":1}']
)
def test_a_body_nested_too_deeply_to_be_taken_apart_names_the_other_model_all_the_same(body: bytes) -> None:
    assert renamed(body, "m") == body.replace(b'"model":1', b'"model":"m"')


def test_what_is_read_token_by_token_is_read_with_pauses() -> None:
    def body(before: bytes, size: int) -> bytes:
        return before + b'{"model":[%b0]}' % (b"[]," * (size // 3))

    assert not takes_long(body(b"", SMALL - 100))
    assert takes_long(body(b"", SMALL))
    assert not takes_long(body(b"\xef\xbb\xbf", STEP - 100))
    assert takes_long(body(b"\xef\xbb\xbf", STEP))
    pieces, pauses = counted(renamed_pieces(body(b"\xef\xbb\xbf", SMALL - 100), "m"))
    assert b"".join(pieces) == b'\xef\xbb\xbf{"model":"m"}'
    assert pauses >= SMALL // STEP - 1


def test_a_large_body_is_neither_copied_nor_read_without_pauses() -> None:
    body = b'{"a":"' + b"x" * 1_000_000 + b'","model":"costly","b":[' + b"{}," * 100_000 + b"0]}"
    pieces, pauses = counted(renamed_pieces(body, "m"))
    assert pauses > 150
    assert b"".join(pieces) == body.replace(b'"costly"', b'"m"')
    assert [type(piece) for piece in pieces] == [memoryview, bytes, memoryview]
