import json
from typing import Any

import pytest

from slotproxy.instances.scaling.workload import CHAT, Count, reading, request


def test_a_chat_warm_up_becomes_a_chat_stream() -> None:
    warm_up = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    path, body = request("/v1/chat/completions", warm_up, "tell", 24)
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "tell"}],
        "max_tokens": 24,
        "stream": True,
        "temperature": 0,
    }


def test_a_completion_warm_up_stays_a_completion_with_its_own_word_for_the_length() -> None:
    path, body = request("/completion", {"prompt": "a", "n_predict": 1}, "tell", 24)
    assert path == "/completion"
    assert (body["prompt"], body["n_predict"]) == ("tell", 24)
    assert "messages" not in body


def test_an_engine_that_is_only_loaded_by_its_warm_up_is_asked_to_chat() -> None:
    path, body = request("/api/generate", {"model": "m"}, "tell", 24)
    assert path == CHAT
    assert body["messages"][0]["content"] == "tell"


def test_llama_cpp_may_reuse_a_prompt_and_not_end_early() -> None:
    _, body = request(CHAT, {"messages": [], "cache_prompt": False}, "tell", 24)
    assert "cache_prompt" not in body
    assert body["ignore_eos"] is True


@pytest.mark.parametrize("tokens", [1, 10, 500])
def test_a_longer_prompt_begins_with_the_shorter_one(tokens: int) -> None:
    assert reading(tokens + 200).startswith(reading(tokens))
    assert len(reading(tokens + 200)) > len(reading(tokens))


def counted(*events: Any) -> int:
    count = Count()
    for event in events:
        count.read(event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n")
    return count.tokens


def text(word: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": word}}]}


def test_events_with_text_count_as_tokens() -> None:
    role: Any = {"choices": [{"delta": {"role": "assistant", "content": None}}]}
    end: Any = {"choices": [{"delta": {}}]}
    assert counted(role, text("a"), text("b"), b": ping\n", b"\n", end, b"data: [DONE]\n") == 2


def test_what_the_engine_counted_itself_is_believed() -> None:
    assert counted(text("a b c"), {"choices": [], "usage": {"completion_tokens": 3}}) == 3


def test_thoughts_and_plain_completions_count_too() -> None:
    thought = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
    assert counted(thought, {"choices": [{"text": "x"}]}, {"content": "y", "stop": False}) == 3


def test_an_answer_that_is_no_stream_counts_by_its_usage() -> None:
    whole = b'{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 7}}'
    assert counted(whole) == 7


@pytest.mark.parametrize("line", [b"", b"data: {", b"data: 5", b"event: x", b'data: {"choices": 5, "usage": 3}'])
def test_what_makes_no_sense_counts_nothing(line: bytes) -> None:
    assert counted(line) == 0
