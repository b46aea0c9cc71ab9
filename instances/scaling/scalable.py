"""What growth acts through: the instances and the machine below them, real or simulated."""

from enum import Enum
from typing import Protocol

from slotproxy.instances.scaling.generations import NotMeasured
from slotproxy.instances.scaling.planner import Pair
from slotproxy.instances.scaling.watermarks import Level


class Arrival(Enum):
    """What came of starting an instance."""

    READY = "ready"
    OUT_OF_MEMORY = "out-of-memory"  # its engine found no memory
    FAILED = "failed"


class Scalable(Protocol):
    """The instances and the machine below them."""

    def level(self) -> Level:
        """As of the last reading."""

    async def add(self) -> Arrival:
        """Start one more."""

    async def remove(self, *, hard: bool) -> None:
        """Remove the newest idle instance; where none is idle the newest after its request, or at once if `hard`."""

    async def work(self, *, known: bool) -> None:
        """Let the newest instance read prompts, so that it holds what it will hold at work; then read memory.

        `known`: what it will hold is known from an earlier start, and it reads none.
        """

    async def compare(self, min_gain: float, *, wait: bool) -> list[Pair] | NotMeasured:
        """Tokens per second of all but the newest, and of all: several pairs.

        `wait`: a few seconds for clients to leave the engines alone.
        """

    def why(self) -> str:
        """What an engine said last that found no memory."""
