"""What is done to a request's body; what is refused of it is tested with whole requests."""

import json

import pytest

from slotproxy.proxy.clients.bodies import renamed


def test_only_the_model_changes_and_every_other_value_keeps_its_bytes() -> None:
    body = (
        b'{"model": "gpt-4", "seed":  1e0, "messages": [ {"content": "\\u00e4 \xc3\xa4"} ], "n": 12345678901234567890}'
    )
    changed = renamed(body, 'a "name"')
    assert json.loads(changed) == json.loads(body) | {"model": 'a "name"'}
    for value in (b"1e0", b'[ {"content": "\\u00e4 \xc3\xa4"} ]', b"12345678901234567890"):
        assert value in changed


def test_a_request_that_names_no_model_names_one_then() -> None:
    assert json.loads(renamed(b"{}", "m")) == {"model": "m"}


@pytest.mark.parametrize("body", [b"", b"[1]", b'"text"', b"{broken", b"\x1f\x8b compressed"])
def test_what_is_no_object_stays_as_it_is(body: bytes) -> None:
    assert renamed(body, "m") == body
