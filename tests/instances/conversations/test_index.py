"""Which prompts are the same conversation, how far others go along with it, and that nothing grows without bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.conversations.index import Index
from slotproxy.instances.slots.claim import Claim
from tests.conversations_text import claim

S = "s" * 400


def sizes(index: Index, *turns: str, principal: str = "alice", session: str | None = None) -> list[tuple[int, bool]]:
    return [(m.size, m.continues) for m in index.matches(claim(S, *turns, principal=principal, session=session))]


def test_a_next_turn_continues_its_conversation_by_all_that_was_sent_before() -> None:
    index = Index()
    record = index.note(claim(S, "one"), 1.0)
    assert sizes(index, "one", "answer", "two") == [(403, True)]
    assert index.note(claim(S, "one", "answer", "two"), 2.0) is record
    assert len(index) == 1
    assert record.used == 2.0


def test_another_conversation_with_the_same_system_prompt_is_another() -> None:
    index = Index()
    first = index.note(claim(S, "one"), 1.0)
    assert sizes(index, "other") == [(400, False)]
    assert index.note(claim(S, "other"), 2.0) is not first
    assert len(index) == 2


def test_a_last_message_that_was_edited_is_the_same_conversation() -> None:
    index = Index()
    record = index.note(claim(S, "one", "answer", "two"), 1.0)
    assert index.conversation(claim(S, "one", "answer", "two!")) is record


def test_a_conversation_that_went_another_way_earlier_is_another() -> None:
    index = Index()
    index.note(claim(S, "hi", "answer", "two"), 1.0)
    assert index.conversation(claim(S, "hi", "another", "three")) is None


def test_a_first_message_that_was_edited_is_another_conversation() -> None:
    index = Index()
    index.note(claim(S, "one"), 1.0)
    assert index.conversation(claim(S, "two")) is None


def test_a_system_prompt_that_changes_with_every_request_does_not_hide_the_conversation() -> None:
    index = Index()
    record = index.note(claim("billed 1", "one", "answer", "two"), 1.0)
    next_turn = claim("billed 2", "one", "answer", "two", "more", "three")
    assert index.conversation(next_turn) is record
    assert [(m.size, m.continues) for m in index.matches(next_turn)] == [(0, True)]


def test_a_long_first_message_is_enough_to_know_it_by_a_greeting_is_not() -> None:
    index = Index()
    record = index.note(claim("billed 1", "w" * 256), 1.0)
    index.note(claim("billed 1", "hi"), 1.0)
    assert index.conversation(claim("billed 2", "w" * 256, "answer", "two")) is record
    assert index.conversation(claim("billed 2", "w" * 255, "answer", "two")) is None
    assert index.conversation(claim("billed 2", "hi", "answer", "two")) is None


def test_the_same_questions_under_a_system_prompt_of_another_length_are_another_conversation() -> None:
    index = Index()
    record = index.note(claim(S, "one", "answer", "two"), 1.0)
    assert index.conversation(claim(S + "x" * 256, "one", "answer", "two", "more", "three")) is record
    assert index.conversation(claim(S + "x" * 257, "one", "answer", "two", "more", "three")) is None


def test_a_session_whose_prompt_is_not_known_is_its_latest_conversation() -> None:
    index = Index()
    record = index.note(Claim(principal="alice", session="1"), 1.0)
    assert index.note(Claim(principal="alice", session="1"), 2.0) is record
    assert index.conversation(Claim(principal="alice", session="2")) is None
    agent = index.note(claim(S, "agent", session="1"), 3.0)
    assert index.conversation(Claim(principal="alice", session="1")) is agent


def test_an_agent_and_its_sub_agent_are_two_conversations_of_one_session() -> None:
    index = Index()
    agent = index.note(claim(S, "agent", session="1"), 1.0)
    assert index.note(claim(S, "sub-agent", session="1"), 2.0) is not agent
    assert index.conversation(claim(S, "agent", "answer", "two", session="1")) is agent


def test_the_same_prompt_in_two_sessions_is_two_conversations() -> None:
    index = Index()
    first = index.note(claim(S, "one", session="1"), 1.0)
    assert index.conversation(claim(S, "one", "answer", "two", session="2")) is None
    assert index.conversation(claim(S, "one", "answer", "two")) is first
    assert index.conversation(claim(S, "one", "answer", "two", session="2", weak=True)) is first


def test_a_weak_session_counts_only_where_the_prompt_says_nothing() -> None:
    index = Index()
    index.note(claim(S, "one", session="person", weak=True), 1.0)
    assert index.latest(claim(S, "two", session="person", weak=True)) is None
    record = index.note(Claim(principal="alice", session="person", session_is_weak=True), 2.0)
    assert index.conversation(Claim(principal="alice", session="person", session_is_weak=True)) is record


def test_one_session_of_two_principals_never_meets() -> None:
    index = Index()
    first = index.note(claim(S, "one", principal="alice", session="1"), 1.0)
    second = index.note(claim(S, "one", principal="bob", session="1"), 2.0)
    assert first is not second
    assert index.conversation(Claim(principal="bob", session="1")) is second


def test_a_session_is_forgotten_with_its_conversation() -> None:
    index = Index()
    index.drop(index.note(claim(S, "one", session="1"), 1.0))
    assert index.latest(claim(S, "one", session="1")) is None


def test_a_prompt_of_somebody_else_is_not_used_unless_two_have_sent_it() -> None:
    index = Index()
    index.note(claim(S, "one", principal="alice"), 1.0)
    assert sizes(index, "one", principal="carol") == []
    index.note(claim(S, "two", principal="bob"), 2.0)
    assert sizes(index, "one", principal="carol") == [(400, False), (400, False)]
    assert sizes(index, "one", principal="alice")[0] == (403, True)


def test_two_conversations_of_one_principal_are_not_two_principals() -> None:
    index = Index()
    index.note(claim(S, "one"), 1.0)
    index.note(claim(S, "two"), 2.0)
    assert sizes(index, "three", principal="carol") == []


def test_without_sharing_nothing_of_others_is_used() -> None:
    index = Index(shares=False)
    index.note(claim(S, "one", principal="alice"), 1.0)
    index.note(claim(S, "two", principal="bob"), 2.0)
    assert sizes(index, "three", principal="carol") == []


def test_the_longest_match_comes_first() -> None:
    index = Index()
    index.note(claim(S, "one", "a", "two", "b", "long way"), 1.0)
    index.note(claim(S, "x"), 2.0)
    found = sizes(index, "one", "a", "other")
    assert [size for size, _ in found] == [404, 400]


def test_what_was_used_longest_ago_is_dropped_first() -> None:
    index = Index(records=2)
    first = index.note(claim(S, "one"), 1.0)
    second = index.note(claim(S, "two"), 2.0)
    index.note(claim(S, "one", "a", "more"), 3.0)
    assert index.overflowing() is None
    index.note(claim(S, "three"), 4.0)
    assert index.overflowing() is second
    index.drop(second)
    assert first in index
    assert index.overflowing() is None


def test_too_many_blocks_are_too_many_but_the_last_record_stays() -> None:
    index = Index(blocks=10)
    index.note(claim(S, *"abcdefgh"), 1.0)
    assert index.overflowing() is None
    second = index.note(claim("other", "z"), 2.0)
    assert index.overflowing() is not second


@given(st.lists(st.tuples(st.sampled_from("ST"), st.text("ab", max_size=5), st.sampled_from("xy")), max_size=30))
def test_the_index_counts_what_it_holds_and_is_empty_when_all_is_dropped(asked: list[tuple[str, str, str]]) -> None:
    index = Index(records=4, blocks=40)
    for number, (system, turns, principal) in enumerate(asked):
        one = claim(system, *turns, principal=principal)
        best = index.matches(one)
        assert [match.size for match in best] == sorted((match.size for match in best), reverse=True)
        record = index.note(one, float(number))
        assert record.prefix is one.prefix
        while (extra := index.overflowing()) is not None:
            index.drop(extra)
        assert len(index) <= 4
        assert index.blocks <= max(40, len(one.prefix.numbers) + len(one.prefix.turn_numbers))
    for match in [m for system in "ST" for who in "xy" for m in index.matches(claim(system, principal=who))]:
        index.drop(match.record)
    while len(index):
        index.drop(next(iter(index)))
    assert index.blocks == 0
    assert not any(index.matches(claim(system, *turns)) for system, turns, _ in asked)


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_records_at_every_depth_are_found(depth: int) -> None:
    index = Index()
    turns = [f"turn {number}" for number in range(6)]
    for end in range(1, 7):  # six conversations that part at six places
        index.note(claim(S, *turns[:end], f"end {end}", "further", "on"), float(end))
    found = sizes(index, *turns[: depth + 1], "new", "and", "newer")
    assert len(found) == 6
    assert max(size for size, _ in found) == 400 + 6 * (depth + 1)
