"""`GET /slotproxy/api/evaluate-parallel-slots?requested=N&context_size=C`: how many slots are sensible. Pure."""

import re
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qsl

from slotproxy.instances.forecast.parallel_slots import evaluate_parallel_slots
from slotproxy.proxy import errors
from slotproxy.proxy.options.option import quoted

REQUESTED, CONTEXT_SIZE = "requested", "context_size"
LARGEST = 2**32 - 1


def evaluate(query: str) -> dict[str, Any]:
    """The answer to the part of a target after `?`. Raises Refusal (400) that names the parameter."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in (REQUESTED, CONTEXT_SIZE):
            raise errors.bad_request(
                "unknown_parameter",
                f"{quoted(name)} is no parameter here: use {REQUESTED} and {CONTEXT_SIZE}.",
                param=name,
            )
        if name in given:
            raise errors.bad_request("invalid_parameter", f"{name} is given more than once.", param=name)
        given[name] = value
    if REQUESTED not in given:
        raise errors.bad_request("missing_parameter", f"{REQUESTED} is missing: a number of slots.", param=REQUESTED)
    numbers = {name: _number(name, value) for name, value in given.items()}
    return asdict(evaluate_parallel_slots(numbers[REQUESTED], numbers.get(CONTEXT_SIZE)))


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or int(text) > LARGEST:
        raise errors.bad_request("invalid_parameter", f"{name} must be a whole number from 0 to {LARGEST}.", param=name)
    return int(text)
