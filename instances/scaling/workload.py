"""Generations of our own, by which engines are measured: what is sent, and how many tokens came back. Pure."""

import json
from collections.abc import Mapping
from typing import Any

CHAT = "/v1/chat/completions"
SENTENCE = "The sea is wide and the wind is cold. "
SENTENCE_TOKENS = 10  # in most vocabularies
STORY = "Tell a long story about a lighthouse keeper, with many details, and never end it."


def reading(tokens: int) -> str:
    """A prompt of about so many tokens; a longer one begins with it, so that an engine need not read that again."""
    return SENTENCE * max(1, tokens // SENTENCE_TOKENS)


def request(path: str, warm_up: Mapping[str, Any], prompt: str, tokens: int) -> tuple[str, dict[str, Any]]:
    """Path and body of a stream of `tokens` tokens, in the manner of an engine's warm-up request."""
    body = {name: value for name, value in warm_up.items() if name != "cache_prompt"}
    if "prompt" in body:
        body["prompt"] = prompt
    else:
        path = path if "messages" in body else CHAT
        body["messages"] = [{"role": "user", "content": prompt}]
    body["n_predict" if "n_predict" in body else "max_tokens"] = tokens
    if "cache_prompt" in warm_up:  # only llama.cpp knows it, which can be kept from ending early, too
        body["ignore_eos"] = True
    return path, body | {"stream": True, "temperature": 0}


class Count:
    """Counts the tokens of an answer, line by line: as the engine counted them, else the events that carry text."""

    def __init__(self) -> None:
        self._said: int | None = None
        self._events = 0

    @property
    def tokens(self) -> int:
        return self._events if self._said is None else self._said

    def read(self, line: bytes) -> None:
        """A line of an event stream, or of a JSON answer from an engine that does not stream."""
        try:
            event = json.loads(line.strip().removeprefix(b"data:"))
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        usage = event.get("usage") or {}
        said = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(said, int):
            self._said = said
        self._events += _has_text(event)


def _has_text(event: Mapping[str, Any]) -> bool:
    choices = event.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        delta = choices[0].get("delta")
        told = delta if isinstance(delta, dict) else choices[0]
        return bool(told.get("content") or told.get("reasoning_content") or told.get("text"))
    return bool(event.get("content"))
