"""What clients say: texts of a wanted length that are the same for the same seed and meet nowhere else. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

PER_WORD = 1.22  # tokens of the demo model per word of `prose`, its full stops included
VOCABULARY = """
river stone market engine window garden letter morning winter planet mirror bridge forest harbor candle
soldier doctor teacher farmer painter writer sailor hunter baker dancer singer driver keeper runner builder
opens closes carries follows watches finds leaves brings holds turns meets counts paints repairs measures
quiet heavy bright narrow ancient green broken golden distant empty warm silver hidden gentle sudden clever
under over beside behind between without against around before after across within through toward inside seven
twelve many several every another third little whole common early later always never often
"""
WORDS = tuple(VOCABULARY.split())
THINGS = WORDS[:30]
ASKS = (
    "What would you say about the {} and the {}?",
    "Tell me one thing about the {} near the {}.",
    "Which is older, the {} or the {}?",
    "Who could use a {} with a {}?",
    "Write one line about the {} and the {}.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One conversation's side of the client: what it says at each turn, and how long it thinks before."""

    name: str
    opening: str
    asks: tuple[str, ...]  # the later turns
    thinks: tuple[float, ...]  # seconds before each turn, the opening's first
    lengths: tuple[int, ...]  # tokens of the answer to each turn, at most
    named: bool = False  # whether a header names it


def prose(chance: random.Random, tokens: int) -> str:
    """About so many tokens of text."""
    return " ".join(_sentences(chance, round(tokens / PER_WORD)))


def _sentences(chance: random.Random, words: int) -> Iterator[str]:
    while words > 0:
        size = min(words, chance.randint(8, 14))
        yield " ".join(chance.choices(WORDS, k=size)).capitalize() + "."
        words -= size


def ask(chance: random.Random) -> str:
    """A short question."""
    return chance.choice(ASKS).format(*chance.sample(THINGS, 2))


def scripts(
    seed: int, conversations: int, turns: int, opening: int, thinks: tuple[float, float], lengths: tuple[int, int]
) -> list[Script]:
    """Conversations of one opening of about `opening` tokens and `turns` short turns."""
    return [
        _script(random.Random(f"{seed}/{n}"), str(n), turns, opening, thinks, lengths) for n in range(conversations)
    ]


def _script(
    chance: random.Random, name: str, turns: int, opening: int, thinks: tuple[float, float], lengths: tuple[int, int]
) -> Script:
    return Script(
        name=name,
        opening=f"{prose(chance, opening)} {ask(chance)}",
        asks=tuple(ask(chance) for _ in range(turns)),
        thinks=tuple(chance.uniform(*thinks) for _ in range(turns + 1)),
        lengths=tuple(chance.randint(*lengths) for _ in range(turns + 1)),
    )
