import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.slots.claim import NO_PREFIX, Claim, Priority
from slotproxy.proxy.clients.claims import LARGEST, LONGEST_SESSION, SMALLEST, claim_of, worth_a_look
from slotproxy.proxy.clients.head import HeadReader, RequestHead

CHAT = "/v1/chat/completions"
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
HEADERS = (
    *("x-session-id", "x-claude-code-session-id", "x-session-affinity", "session-id", "session_id"),
    "x-conversation-id",
)
FIELDS: tuple[dict[str, Any], ...] = (
    {"prompt_cache_key": "0"},
    {"session_id": "1"},
    {"metadata": {"user_id": "2"}},
    {"previous_response_id": "3"},
    {"user": "4"},
)
WEAK = {"0", "2", "3", "4"}
MESSAGES = {"messages": [{"role": "user", "content": "hello"}]}
NAMES = (
    *("messages", "role", "content", "tools", "type", "text", "input", "prompt", "system", "metadata", "user_id"),
    *("user", "session_id", "image_url", "images", "previous_response_id", "prompt_cache_key", "context"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


def head(*fields: str, path: str = CHAT, method: str = "POST") -> RequestHead:
    reader = HeadReader()
    reader.read("\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *fields, "", "")).encode("latin-1"))
    assert reader.head is not None
    return reader.head


def claim(*fields: str, **body: Any) -> Claim:
    return claim_of(head(*fields), json.dumps(body).encode(), "key-1")


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize("name", ["/chat/completions", "/completions", "/responses", "/messages"])
def test_generations_are_worth_a_look(prefix: str, name: str) -> None:
    assert worth_a_look(head(path=prefix + name + "?x=1"), b"x" * SMALLEST)


@pytest.mark.parametrize("path", ["/completion", "/infill", "/api/chat", "/api/generate"])
def test_those_of_llama_cpp_and_ollama_are_too(path: str) -> None:
    assert worth_a_look(head(path=path), b"x" * SMALLEST)


def test_nothing_else_is() -> None:
    large = b"x" * SMALLEST
    assert not worth_a_look(head(path="/v1/embeddings"), large)
    assert not worth_a_look(head(path="/v1/infill"), large)
    assert not worth_a_look(head(method="GET"), large)
    assert not worth_a_look(head(), large[1:])


@pytest.mark.parametrize("name", [*HEADERS, "x-slotproxy-priority"])
def test_a_small_body_is_worth_it_where_the_head_says_something(name: str) -> None:
    assert worth_a_look(head(f"{name.upper()}: x"), b"")


def test_the_session_of_the_head_comes_first_in_this_order() -> None:
    for first in range(len(HEADERS)):
        fields = [f"{name}: s{number}" for number, name in enumerate(HEADERS)][first:]
        found = claim(*reversed(fields), **{name: value for each in FIELDS for name, value in each.items()})
        assert (found.session, found.session_is_weak) == (f"s{first}", False)


def test_then_that_of_the_body_in_this_order() -> None:
    for first in range(len(FIELDS)):
        found = claim(**{name: value for each in reversed(FIELDS[first:]) for name, value in each.items()})
        assert (found.session, found.session_is_weak) == (str(first), str(first) in WEAK)
    assert (claim().session, claim().session_is_weak) == (None, False)


@pytest.mark.parametrize("bad", ["", "  ", "x" * (LONGEST_SESSION + 1), "é" * 129, "é" * 300])
def test_a_session_that_is_none_is_passed_over(bad: str) -> None:
    assert claim(session_id=bad, user="u").session == "u"
    assert claim(f"x-session-id: {bad}", "session-id: there").session == "there"


@pytest.mark.parametrize("bad", [None, True, False, [], ["a"], {"a": 1}])
def test_only_strings_and_numbers_are_sessions(bad: Any) -> None:
    assert claim(session_id=bad, prompt_cache_key=bad, metadata=bad, previous_response_id=bad, user="u").session == "u"
    assert claim(metadata={"user_id": bad}, user="u").session == "u"


def test_a_session_is_stripped_and_may_be_a_number_or_as_long_as_allowed() -> None:
    longest = "x" * LONGEST_SESSION
    assert claim(session_id=" a b\n").session == "a b"
    assert claim(session_id=-12).session == "-12"
    assert claim(session_id=longest).session == longest
    assert claim(f"X-Session-Id:  {longest}  ").session == longest
    assert claim(session_id="é" * 128).session == "é" * 128


@pytest.mark.parametrize(
    "user",
    [
        f"user_{'0a' * 32}_account_{UUID[::-1]}_session_{UUID}",
        f"user_{'0a' * 32}_account__session_{UUID}",
        json.dumps({"device_id": "x", "account_uuid": "", "session_id": UUID}),
        json.dumps({"session_id": UUID, "device_id": "x"}, separators=(",", ":")),
    ],
)
def test_claude_code_names_its_session_behind_its_user(user: str) -> None:
    found = claim(metadata={"user_id": user})
    assert (found.session, found.session_is_weak) == (UUID, False)


@pytest.mark.parametrize("user", [f"_session_{UUID}x", f"session_{UUID}", f"_session_{UUID[1:]}", "alice"])
def test_other_users_are_not_taken_apart(user: str) -> None:
    found = claim(metadata={"user_id": user})
    assert (found.session, found.session_is_weak) == (user, True)


@pytest.mark.parametrize(("value", "batch"), [("batch", True), ("BATCH", True), ("interactive", False), ("x", False)])
def test_only_batch_is_batch(value: str, batch: bool) -> None:
    assert claim(f"X-Slotproxy-Priority:  {value} ").priority is (Priority.BATCH if batch else Priority.INTERACTIVE)
    assert claim().priority is Priority.INTERACTIVE


def test_the_principal_is_who_was_said_to_ask() -> None:
    assert claim().principal == "key-1"


def test_the_prompt_is_known_by_its_blocks() -> None:
    found = claim(**MESSAGES)
    assert len(found.prefix.numbers) == 1
    assert found.prefix == claim(**MESSAGES, user="u", stream=True).prefix
    assert claim(input="hi").prefix != NO_PREFIX != claim(prompt="hi").prefix


def test_of_a_body_that_is_too_large_only_the_head_is_read() -> None:
    body = json.dumps(MESSAGES | {"user": "u"}).encode()
    found = claim_of(head("session-id: s"), body.ljust(LARGEST + 1), "")
    assert (found.session, found.prefix) == ("s", NO_PREFIX)
    assert claim_of(head(), body.ljust(LARGEST + 1), "").session is None
    assert claim_of(head(), body.ljust(LARGEST), "").session == "u"


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \n"])
@pytest.mark.parametrize("after", [b"", b"\0\0", b"\n \0"])
def test_what_engines_may_judge_is_no_obstacle(before: bytes, after: bytes) -> None:
    body = before + json.dumps(MESSAGES).encode() + after
    assert claim_of(head(), body, "").prefix == claim(**MESSAGES).prefix


def test_half_an_emoji_is_none_either() -> None:
    cut = claim_of(head(), b'{"user":"u","messages":[{"role":"user","content":"a\\ud83d"}]}', "")
    assert cut.session == "u"
    assert len(cut.prefix.numbers) == 1


@given(st.binary(max_size=200), st.sampled_from([b"", b'{"messages":[', b'{"input":"', b'{"metadata":{"user_id":']))
def test_no_body_raises(body: bytes, before: bytes) -> None:
    claim_of(head(), before + body, "")


@given(st.dictionaries(st.sampled_from(["messages", "tools", "system", "metadata", "input", "user"]), JSON))
def test_no_json_raises(body: dict[str, Any]) -> None:
    found = claim(**body)
    assert len(found.prefix.numbers) == len(found.prefix.ends)
    whole = json.dumps(body).encode()
    for end in range(0, len(whole), 7):
        claim_of(head(), whole[:end], "")


@pytest.mark.parametrize("name", ["messages", "tools", "metadata", "prompt", "user"])
def test_no_depth_raises(name: str) -> None:
    for opening, closing in (("[", "]"), ('{"content":[', "]}"), ('{"a":', "}")):
        for depth in (100, 100_000):
            body = f'{{"{name}":{opening * depth}1{closing * depth}}}'
            claim_of(head(), body.encode(), "")
