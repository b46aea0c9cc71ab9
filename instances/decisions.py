"""What is decided about the number of instances, as values. Pure."""

import enum
from dataclasses import dataclass


class Move(enum.Enum):
    """What is done about the number of instances."""

    ADD = "add"
    KEEP = "keep"  # the newest has proved itself
    REMOVE = "remove"
    STOP = "stop"  # no further one


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`sentence` is for people, `reason` for metrics: a word of a bounded set."""

    move: Move
    reason: str
    sentence: str

    @property
    def start(self) -> bool:
        """Whether one more is to be started."""
        return self.move is Move.ADD


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCount:
    """How often one kind of decision was taken since the start."""

    decision: Move
    reason: str
    count: int
