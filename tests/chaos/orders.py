"""What clients ask for, how they behave, and what must come of it: the same for the same seed. Pure."""

import enum
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.clients import chat
from tests.fake_answers import RAW, Behaviour, events, whole

FAKE_NAME = "model"  # of the fake engine's model: it is in its answers
PROMPTS = (
    "Say hi.",
    "Count to ten.",
    "Name three colours.",
    "What is the capital of France?",
    "Write one line about rain.",
    "Who wrote Hamlet?",
    "Explain gravity in a few words.",
    "List two fruits.",
)
TOKENS = (4, 10, 24)
# Answers of which the client must never see a whole one.
BROKEN = ("nothing", "half-head", "garbage", "length-twice", "huge-head", "control-byte", "bad-chunk-size")
CUT = ("length-too-long", "no-last-chunk")


class Manner(enum.Enum):
    """How a client behaves."""

    PATIENT = "waits for the end"
    LEAVES_IN_HEAD = "leaves within its head"
    LEAVES_IN_BODY = "leaves within its body"
    LEAVES_AT_ONCE = "leaves when all is sent"
    LEAVES_WAITING = "leaves while it waits"
    LEAVES_READING = "leaves while it reads"
    HALF_CLOSES = "closes its half and waits"
    SLOW = "reads slowly"
    NEVER_READS = "never reads"


LEAVES = frozenset(manner for manner in Manner if manner.name.startswith("LEAVES")) | {Manner.HALF_CLOSES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request and its client."""

    name: str  # the request id
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Manner = Manner.PATIENT
    patience: float = 0.0  # seconds until a leaving client leaves, and until a slow one reads again
    events: int = 0  # events after which a reading client leaves
    status: int = 200
    expected: bytes | None = None  # the whole body; None: there must not be one
    text: tuple[str, str] | None = None  # instead of `expected`: the text and finish reason of a real engine's answer

    @property
    def stream(self) -> bool:
        return bool(self.body["stream"])


def real_questions(prompts: int) -> list[tuple[str, int]]:
    return [(prompt, tokens) for prompt in PROMPTS[:prompts] for tokens in TOKENS]


def real_body(prompt: str, tokens: int, *, stream: bool) -> dict[str, Any]:
    """Greedy, and without what the slot remembers of other prompts: it changes how sums are rounded."""
    return chat(prompt, max_tokens=tokens, stream=stream, cache_prompt=False)


def real_orders(
    seed: int, client: int, answers: Mapping[tuple[str, int], tuple[str, str]], *, patient: bool = False
) -> Iterator[Order]:
    dice = random.Random(f"real {seed} {client}")
    number = 0
    while True:
        number += 1
        question = dice.choice(sorted(answers))
        stream = dice.random() < 0.6
        yield Order(
            name=f"real-{client}-{number}",
            body=real_body(*question, stream=stream),
            text=answers[question],
            **({} if patient else _manner(dice, slow=False)),
        )


def fake_orders(seed: int, client: int, *, patient: bool = False) -> Iterator[Order]:
    dice = random.Random(f"fake {seed} {client}")
    number = 0
    while True:
        number += 1
        stream = dice.random() < 0.6
        told = _sound(dice, stream=stream) if patient else _told(dice, stream=stream)
        manner = {} if patient else _manner(dice, slow=True)
        if manner and manner["manner"] in (Manner.SLOW, Manner.NEVER_READS):
            stream, told = True, {"events": 60, "padding": 40_000}
        yield fake_order(f"fake-{client}-{number}", told, stream=stream, **manner)


def fake_order(name: str, told: dict[str, Any], *, stream: bool, **manner: Any) -> Order:
    """A request the fake engine treats as `told`. Its answer carries the request's name: none can be mixed up."""
    told = {**told, "headers": {"X-Tag": name}}
    behaviour = Behaviour.of(told)
    expected: bytes | None = b"".join(events(FAKE_NAME, behaviour)) if stream else whole(FAKE_NAME, behaviour)
    if behaviour.only_first is None and (behaviour.raw is not None or behaviour.fail is not None):
        expected = None
    return Order(
        name=name,
        body=chat(stream=stream),
        headers={"X-Fake": json.dumps(told)},
        status=behaviour.status,
        expected=expected,
        **manner,
    )


def _told(dice: random.Random, *, stream: bool) -> dict[str, Any]:
    """How the engine is to treat one request; mostly well."""
    kind = dice.random()
    if kind < 0.06:
        return {"raw": dice.choice(BROKEN + CUT if stream else (*BROKEN, *CUT, "empty-200"))}
    if kind < 0.12:
        return {"fail": dice.choice(("reset", "close")), "after": dice.choice((-1, 0, 2)) if stream else -1}
    if kind < 0.17:
        return {"status": dice.choice((400, 429, 500, 503)), "compute": 0.2}
    return _sound(dice, stream=stream)


def _sound(dice: random.Random, *, stream: bool) -> dict[str, Any]:
    """A right answer, in one of many shapes."""
    told: dict[str, Any] = {"delay": dice.choice((0, 0, 0.02, 0.2)), "compute": dice.choice((0, 0, 0.3))}
    if dice.random() < 0.3:
        told["cuts"] = dice.randrange(1000)
    if dice.random() < 0.1:
        told[dice.choice(("last", "drop_reused"))] = True
    if dice.random() < 0.05:
        told["drip"] = 0.0005
    elif stream:
        told |= {"events": dice.randrange(1, 40), "gap": dice.choice((0, 0.001, 0.02))}
        told |= {"padding": dice.choice((0, 10, 3000)), "framing": dice.choice(("chunked", "chunked", "length"))}
    elif dice.random() < 0.3:
        told["size"] = dice.choice((100, 5000, 300_000))
    return told


def _manner(dice: random.Random, *, slow: bool) -> dict[str, Any]:
    weights: dict[Manner, float] = dict.fromkeys(LEAVES, 2.0) | {Manner.PATIENT: 30.0}
    if slow:
        weights |= {Manner.SLOW: 1, Manner.NEVER_READS: 0.5}
    weights = dict(sorted(weights.items(), key=lambda pair: pair[0].name))
    manner = dice.choices(list(weights), list(weights.values()))[0]
    return {"manner": manner, "patience": dice.choice((0.0, 0.01, 0.05, 0.3)), "events": dice.randrange(5)}


assert set(BROKEN + CUT) <= set(RAW)
