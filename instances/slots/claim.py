"""What a request says of itself to whoever gives out slots. Pure values.

A prompt is known by its blocks: the text of the conversation as the engine will read it, cut at messages and, where a
message is long, within it. Each block has a number that stands for all the text from the beginning to its end, so that
two prompts begin alike exactly as far as their numbers are the same.
"""

import enum
from dataclasses import dataclass


class Priority(enum.Enum):
    """`x-slotproxy-priority`: batch waits while others are waiting, but not for ever."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A prompt's blocks. `numbers` and `ends` are of one length, and so are `turn_numbers` and `turn_ends`."""

    numbers: tuple[int, ...] = ()  # of 64 bits each; the i-th: the text up to the end of block i
    ends: tuple[int, ...] = ()  # bytes of text up to there; rising
    # The same from the first message of the user on. What comes before it may change with every request (a billing
    # line, the time of day) and so hide that the conversation goes on.
    turn_numbers: tuple[int, ...] = ()
    turn_ends: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return self.ends[-1] if self.ends else 0

    def in_common(self, other: "Prefix") -> int:
        """Bytes from the beginning that are the same in both."""
        blocks = common(self.numbers, other.numbers)
        return self.ends[blocks - 1] if blocks else 0


NO_PREFIX = Prefix()


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Blocks from the beginning that both have, by their numbers."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high) // 2
        if one[middle] == other[middle]:
            low = middle + 1
        else:
            high = middle
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One request's claim to a slot."""

    principal: str = ""  # who asks: the label of the key, else the client's address; never the key itself
    priority: Priority = Priority.INTERACTIVE
    session: str | None = None  # the conversation, as the client names it; counts within its principal only
    # It may be a person's or an application's name, with many conversations: it counts where the prefix says nothing.
    session_is_weak: bool = False
    prefix: Prefix = NO_PREFIX

    @property
    def says_what(self) -> bool:
        """Whether anything is known of the conversation."""
        return self.session is not None or bool(self.prefix.numbers)

    @property
    def expected_prefill(self) -> int:
        """Tokens to compute where nothing of the prompt is cached, by the usual four bytes for each."""
        return self.prefix.size // 4
