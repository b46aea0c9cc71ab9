"""How long an engine may be silent, and a client not read. Pure."""

from dataclasses import dataclass
from typing import Protocol

from slotproxy.proxy.engines.failure import Failure, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, except the queue's length."""

    queue: int
    queue_timeout: float
    prefill_timeout: float
    stall_timeout: float
    sse_ping: float | None = None  # between comments while a client that asked for a stream waits; None: there are none


class Watched(Protocol):
    """An answer on its way: an `answer.Answer`."""

    first_byte: float
    stream: bool
    paused_since: float | None

    @property
    def heard(self) -> float:
        """When the engine last gave a sign of life."""

    def says_nothing(self, now: float, patience: float) -> bool:
        """Whether a stream has brought nothing but comments for `patience` seconds."""


def unread(answer: Watched, now: float, patience: float) -> Failure | None:
    """The client has read nothing for `patience` seconds; None: it has."""
    if answer.paused_since is None or now - answer.paused_since <= patience:
        return None
    return Failure(Kind.SLOW_CLIENT, f"the client read nothing for {patience:g} s")


def overdue(answer: Watched, now: float, limits: Limits) -> Failure | None:
    """What of its deadlines the engine has missed; None: none of them."""
    prefill, stall = limits.prefill_timeout, limits.stall_timeout
    silent = now - answer.heard
    if not answer.first_byte:
        if silent > prefill:
            return Failure(Kind.PREFILL_TIMEOUT, f"no byte of an answer within {prefill:g} s")
    elif silent > stall:
        return Failure(Kind.STALL_TIMEOUT, f"its stream was silent for {stall:g} s")
    elif answer.stream and answer.says_nothing(now, prefill):
        return Failure(Kind.STALL_TIMEOUT, f"its stream said nothing but comments for {prefill:g} s")
    return None
