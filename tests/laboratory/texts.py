"""Texts as the laboratory knows them: not words, but numbered pieces of so many tokens. Pure.

Two texts are alike as far as their pieces are the same ones. What the proxy knows of a text is its `Prefix`, which is
made here with numbers in place of the hashes of real text.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from slotproxy.instances.slots.claim import Prefix

BYTES_PER_TOKEN = 4
BLOCK = 512  # tokens: a longer piece is several blocks to the proxy
_BITS = (1 << 64) - 1


class Piece(NamedTuple):
    """A message, or a part of one, which other texts share as a whole or not at all."""

    number: int
    tokens: int


Text = tuple[Piece, ...]


def size(text: Iterable[Piece]) -> int:
    """Tokens of all of it."""
    return sum(piece.tokens for piece in text)


def common(one: Text, other: Text) -> int:
    """Tokens that both begin with."""
    tokens = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        tokens += left.tokens
    return tokens


def prefix(text: Text, first_user: int) -> Prefix:
    """What the proxy knows of `text`, whose first message of the user begins with the piece numbered `first_user`."""
    numbers, ends = _chain(text)
    turn_numbers, turn_ends = _chain(text[first_user:])
    return Prefix(numbers=numbers, ends=ends, turn_numbers=turn_numbers, turn_ends=turn_ends)


def _chain(text: Text) -> tuple[tuple[int, ...], tuple[int, ...]]:
    numbers, ends, number, end = [], [], 0, 0
    for block, tokens in _blocks(text):
        number, end = hash((number, block)) & _BITS, end + tokens * BYTES_PER_TOKEN
        numbers.append(number)
        ends.append(end)
    return tuple(numbers), tuple(ends)


def _blocks(text: Text) -> Iterator[tuple[int, int]]:
    for piece in text:
        for _ in range(piece.tokens // BLOCK):
            yield piece.number, BLOCK
        if piece.tokens % BLOCK:
            yield piece.number, piece.tokens % BLOCK
