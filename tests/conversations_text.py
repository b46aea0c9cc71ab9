"""Prompts for tests of conversations: a list of messages, and the claim that such a request has."""

import hashlib
from collections.abc import Sequence

from slotproxy.instances.slots.claim import Claim, Prefix


def chain(messages: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers and ends of one block for each message."""
    numbers, ends, size, text = [], [], 0, hashlib.blake2b(digest_size=8)
    for message in messages:
        text.update(message.encode() + b"\0")
        size += len(message)
        numbers.append(int.from_bytes(text.digest()))
        ends.append(size)
    return tuple(numbers), tuple(ends)


def claim(system: str, *turns: str, principal: str = "alice", session: str | None = None, weak: bool = False) -> Claim:
    """That of a conversation whose first message is the system's."""
    numbers, ends = chain([system, *turns])
    turn_numbers, turn_ends = chain(turns)
    prefix = Prefix(numbers=numbers, ends=ends, turn_numbers=turn_numbers, turn_ends=turn_ends)
    return Claim(principal=principal, session=session, session_is_weak=weak, prefix=prefix)
