"""What passes between an engine's connection and whoever takes its answer."""

import asyncio
import enum
from dataclasses import dataclass
from typing import Protocol

from slotproxy.proxy.engines.heads import Head


class Kind(enum.Enum):
    """What went wrong between us and an engine; the values are the label of `upstream_errors_total`."""

    REFUSED = "refused"  # no connection
    RESET = "reset"  # ended before or within the answer
    STALE = "stale"  # a kept-alive connection had been closed by the engine: nobody's fault
    MALFORMED = "malformed"  # not HTTP, or HTTP nobody should pass on
    LIMITED = "limited"  # an upstream answered that it takes no request now
    EMPTY = "empty"  # 200 without a body where one was due
    PREFILL_TIMEOUT = "prefill-timeout"
    STALL_TIMEOUT = "stall-timeout"
    SLOW_CLIENT = "slow-client"  # the client stopped reading: the engine is fine
    SHUTDOWN = "shutdown"  # we are going, the engine is fine


@dataclass(frozen=True, slots=True)
class Failure:
    kind: Kind
    text: str  # for the user, continues "The engine failed: "


class Sink(Protocol):
    """Who takes an answer. Called from the event loop's callbacks: no method may block or raise."""

    def head(self, head: Head, length: int | None) -> Failure | None:
        """`length` of the body; None: until its end. A Failure ends the exchange."""

    def whole(self, head: Head, body: bytes) -> Failure | None:
        """All of an answer at once: as `head` and `receive`, one after the other."""

    def receive(self, data: bytes, complete: bool) -> Failure | None:
        """What one segment held of the body; `complete` exactly once, with the last."""

    def over(self) -> None:
        """The answer was complete, and its connection may be used for another request by now."""

    def settle(self) -> None:
        """There are MANY pieces of chunks that passed."""

    def closed(self) -> Failure | None:
        """The engine closed the connection, which is all that marks the end of this body: complete, or a Failure. If it
        is complete, `over` follows.
        """

    def fail(self, failure: Failure) -> None:
        """There will be no (more) answer."""


class Outlet(Protocol):
    """A client's connection."""

    @property
    def transport(self) -> asyncio.Transport | None: ...
