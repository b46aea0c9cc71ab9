import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotproxy.instances.slots.claim import Prefix
from slotproxy.proxy.clients import prompt_blocks
from slotproxy.proxy.clients.prompt_blocks import BLOCK, FAR, LONG_BLOCK, MEDIA_SIZE, MOST_BLOCKS, Told, prefix_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["é", "a\\u00e9/", '"\\', "x" * 5000]
)
LEAF = TEXT | st.integers(-9, 9) | st.booleans()
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=4
)
PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": VALUE}),
    st.fixed_dictionaries({"type": st.just("tool_use"), "id": TEXT, "input": VALUE}),
    st.fixed_dictionaries(
        {"type": st.just("tool_result"), "content": TEXT | st.lists(st.fixed_dictionaries({"text": TEXT}))}
    ),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"]), "content": TEXT | st.lists(PART, max_size=3)},
    optional={"tool_calls": st.lists(VALUE, max_size=2), "name": TEXT},
)
BODY = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=5)},
    optional={"tools": st.lists(st.dictionaries(TEXT, VALUE, max_size=3), max_size=3), "system": TEXT | st.lists(PART)},
)


def prefix(body: dict[str, Any], **how: Any) -> Prefix:
    return prefix_of(msgspec.json.decode(json.dumps(body, **how), type=Told))


def chat(*contents: Any, **fields: Any) -> Prefix:
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return prefix({"messages": messages, **fields})


def blocks(found: Prefix) -> list[tuple[int, int]]:
    return [*zip(found.numbers, found.ends, strict=True)]


def in_common(one: Prefix, other: Prefix) -> int:
    """Bytes with which both begin."""
    same = 0
    for first, second in zip(blocks(one), blocks(other), strict=False):
        if first != second:
            break
        same = first[1]
    return same


def turned(value: Any) -> Any:
    """The same with the fields of messages, parts and tools the other way round, and `cache_control` put in."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [turned(each) if isinstance(each, dict) else each for each in value]
    return {name: turned(value[name]) if name == "content" else value[name] for name in reversed(value)} | {
        "cache_control": {"type": "ephemeral"}
    }


@given(BODY)
def test_numbers_are_of_64_bits_and_ends_rise(body: dict[str, Any]) -> None:
    found = prefix(body)
    for numbers, ends in ((found.numbers, found.ends), (found.turn_numbers, found.turn_ends)):
        assert len(numbers) == len(ends)
        assert all(0 <= number < 1 << 64 for number in numbers)
        assert all(before < after for before, after in pairwise((0, *ends)))
    assert found.size > 0


@given(BODY, st.lists(MESSAGE, max_size=3))
def test_a_conversation_that_goes_on_keeps_its_numbers(body: dict[str, Any], more: list[Any]) -> None:
    before, after = prefix(body), prefix({**body, "messages": body["messages"] + more})
    size = len(before.numbers)
    assert (after.numbers[:size], after.ends[:size]) == (before.numbers, before.ends)
    turns = len(before.turn_numbers)
    assert (after.turn_numbers[:turns], after.turn_ends[:turns]) == (before.turn_numbers, before.turn_ends)


@given(BODY, st.sampled_from([None, 2]), st.booleans())
@example({"messages": [{"role": "user", "content": "", "tool_calls": ["\x7f"]}]}, None, False)
@example(
    {"messages": [{"role": "user", "content": "", "tool_calls": [{"é": '\\"\\\\u00e9\x1b\U0001f600'}]}]}, None, False
)
def test_how_the_json_is_written_makes_no_difference(body: dict[str, Any], indent: int | None, plain: bool) -> None:
    expected = prefix(body, separators=(",", ":"))
    assert prefix(body, indent=indent, ensure_ascii=plain) == expected
    same = {name: turned(body[name]) for name in reversed(body)}
    assert prefix(same, indent=indent, ensure_ascii=plain) == expected


@given(st.lists(st.text("abc", min_size=1, max_size=3000), min_size=2, max_size=8), st.data())
def test_a_change_is_seen_from_its_block_on(contents: list[str], data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, len(contents) - 1))
    place = data.draw(st.integers(0, len(contents[changed]) - 1))
    text = contents[changed]
    other = [*contents[:changed], text[:place] + "X" + text[place + 1 :], *contents[changed + 1 :]]
    before, after = chat(*contents), chat(*other)
    assert before.ends == after.ends
    at = chat(*contents[:changed]).size + len('"user"' if changed % 2 == 0 else '"assistant"') + 1 + place
    for one, two, end in zip(before.numbers, after.numbers, before.ends, strict=True):
        assert (one == two) == (end <= at)


def test_a_text_is_one_part_of_that_text() -> None:
    assert chat("hé") == chat([{"type": "text", "text": "hé", "cache_control": {"type": "ephemeral"}}])
    assert chat("x", system="be") == chat("x", system=[{"type": "text", "text": "be"}])
    assert chat("ab") != chat([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])


def test_who_says_it_and_the_other_fields_of_a_message_count() -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"role": "tool"},
        {"name": "n"},
        {"tool_calls": [{"id": 1}]},
        {"tool_calls": [{"id": 2}]},
    ]
    found = [prefix({"messages": [{"role": "user", "content": "x", **way}]}).numbers for way in ways]
    assert len(set(found)) == len(ways)
    assert chat("x", tools=[{"name": "a"}]).numbers != chat("x", tools=[{"name": "b"}]).numbers
    assert prefix({"messages": [{"role": "user", "content": "x", "tool_calls": None}]}).numbers == found[0]


def test_what_does_not_change_the_prompt_does_not_count() -> None:
    assert chat("x", stream=True, temperature=1, max_tokens=3, metadata={"a": 1}) == chat("x")


def test_tools_come_first_then_the_system_then_messages() -> None:
    tools, whole = [{"name": "f" * 99}], chat("x", tools=[{"name": "f" * 99}], system="be brief")
    assert in_common(whole, chat("x", tools=tools, system="be long")) == chat(tools=tools).size > 99
    assert in_common(whole, chat("y", tools=tools, system="be brief")) == chat(tools=tools, system="be brief").size
    assert in_common(whole, chat("x", tools=[], system="be brief")) == 0


def test_a_billing_line_or_a_new_tool_does_not_hide_that_a_conversation_goes_on() -> None:
    def asked(line: str, *contents: Any) -> Prefix:
        system = [{"type": "text", "text": line}, {"type": "text", "text": "be brief " * 900}]
        return chat(*contents, system=system, tools=[{"name": line}])

    first, second = asked("cch=1a2b;", "one"), asked("cch=3c;", "one", "two", "three")
    assert in_common(first, second) == 0
    assert second.turn_numbers[:1] == first.turn_numbers == chat("one").numbers
    assert second.turn_ends == chat("one", "two", "three").ends
    assert second.turn_numbers != second.numbers


def test_the_turn_begins_with_the_first_message_of_the_user() -> None:
    def said(*roles: str) -> Prefix:
        return prefix({"messages": [{"role": role, "content": "x"} for role in roles]})

    assert said("system", "developer").turn_numbers == ()
    found = said("system", "user", "assistant", "user")
    assert found.turn_numbers == said("user", "assistant", "user").numbers
    assert len(found.numbers) == 4
    alone = said("user", "assistant")
    assert (alone.turn_numbers, alone.turn_ends) == (alone.numbers, alone.ends)


@pytest.mark.parametrize("shared", [BLOCK, 3 * BLOCK + 7, FAR + LONG_BLOCK + 9])
def test_long_texts_share_what_they_share(shared: int) -> None:
    one, two = chat("a" * shared + "b" * 3000), chat("a" * shared + "c")
    common = in_common(one, two)
    assert shared - (BLOCK if shared < FAR else LONG_BLOCK) <= common <= shared + len('"user"') + 1


def test_a_message_is_one_block_or_is_cut_at_fixed_distances() -> None:
    role = len('"user"') + 1
    assert chat("a" * (BLOCK - role)).ends == (BLOCK,)
    assert chat("a" * (2 * BLOCK)).ends == (BLOCK, 2 * BLOCK, 2 * BLOCK + role)


@pytest.mark.parametrize("size", [299, 1000, 5000])
def test_a_text_that_is_no_message_is_cut_finer_where_it_begins(size: int) -> None:
    for name in ("prompt", "input_prefix"):
        one, two = (prefix({name: "a" * size + end}) for end in ("b", "c" * 2000))
        assert size - in_common(one, two) < (256 if size < 2048 else BLOCK)
        assert one.turn_numbers == ()


@pytest.mark.parametrize("prompt", ["hello", [1, 2, 3], ["a", "b"], {"prompt_string": "x"}])
def test_a_prompt_may_have_any_form(prompt: Any) -> None:
    assert prefix({"prompt": prompt}) != prefix({"prompt": "other"})
    assert prefix({"prompt": prompt}, indent=3) == prefix({"prompt": prompt})
    assert prefix({"prompt": prompt}).size > 0


def test_what_responses_are_asked_is_a_conversation() -> None:
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    assert prefix({"input": "hi"}) == prefix({"input": items}) == chat("hi")
    assert prefix({"input": "hi", "instructions": "be"}) == chat("hi", system="be")
    before, after = prefix({"input": items}), prefix({"input": [*items, call]})
    assert after.numbers[:1] == before.numbers
    assert len(after.numbers) == 2


def test_an_image_counts_as_some_text_whatever_its_size() -> None:
    def shown(url: str) -> Prefix:
        return chat(
            [{"type": "image_url", "image_url": {"url": url}, "cache_control": {}}, {"type": "text", "text": "?"}]
        )

    small, large = shown("data:a"), shown("data:" + "b" * 100_000)
    assert small.size == large.size == len('"user"') + 1 + MEDIA_SIZE + 2
    assert in_common(small, large) == 0
    ollama = [
        prefix({"messages": [{"role": "user", "content": "?", "images": [image]}]}) for image in ("a", "b" * 9999)
    ]
    assert ollama[0].size == ollama[1].size
    assert ollama[0] != ollama[1]
    assert prefix({"prompt": "?", "images": ["a"]}) != prefix({"prompt": "?", "images": ["b"]})


def test_a_tools_result_is_read_like_a_message_and_shares_its_beginning() -> None:
    def result(content: Any, **more: Any) -> Prefix:
        return chat([{"type": "tool_result", "tool_use_id": "1", "content": content, **more}])

    assert result("x") == result([{"type": "text", "text": "x"}], cache_control={"type": "ephemeral"})
    assert in_common(result("a" * 9000), result("a" * 9000 + "b")) >= 8192
    assert result("x") != chat([{"type": "tool_result", "tool_use_id": "2", "content": "x"}])
    image = {"type": "image", "source": {"data": "a" * 50_000}}
    assert result([image]).size < 2 * MEDIA_SIZE
    deep: Any = "x"
    for _ in range(300):
        deep = [{"content": deep}]
    assert result(deep).size > 290 * len('[{"content":')  # from some depth on it is one text


def test_messages_that_are_none_are_one_text() -> None:
    for messages in (["a", {"role": "user"}], {"role": "user"}, "x" * 5000, 7):
        found = prefix({"messages": messages})
        assert found.size > 0
        assert found.turn_numbers == ()


def test_too_many_messages_are_one_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_blocks, "CROWDED", 100)
    for most in ("MOST_OBJECTS", "MOST_NAMES"):
        with monkeypatch.context() as patched:
            patched.setattr(prompt_blocks, most, 10)
            few, many = chat(*"abcd" * 2), chat(*"abcd" * 5)
            assert (len(few.turn_numbers), many.turn_numbers) == (0 if most == "MOST_NAMES" else 8, ())
            assert in_common(many, chat(*"abcd" * 5, "e")) > 256


def test_as_many_in_a_small_body_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_blocks, "MOST_OBJECTS", 1)
    assert len(chat(*"abcd").numbers) == 4


def test_blocks_are_bounded() -> None:
    most = prefix({"messages": [{"role": "user", "content": "a"}] * (MOST_BLOCKS + 5)})
    assert len(most.numbers) == len(most.turn_numbers) == MOST_BLOCKS
    more = prefix({"messages": [{"role": "user", "content": "a"}] * (MOST_BLOCKS + 6)})
    assert more == most
    long = [{"role": "user", "content": "a"}] * (MOST_BLOCKS - 1) + [{"role": "user", "content": "a" * 9000}]
    assert len(prefix({"messages": long}).numbers) == MOST_BLOCKS
    late = [{"role": "system", "content": "a"}] * MOST_BLOCKS + [{"role": "user", "content": "a"}]
    assert prefix({"messages": late}).turn_numbers == ()


def test_numbers_are_the_same_in_every_process() -> None:
    found = chat("hello", "é", system="be brief")
    assert found.numbers == (8673086585905607839, 12857066333927243475, 2899804095599309484)
