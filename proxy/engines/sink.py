"""What passes between an engine's connection and whoever takes its answer."""

import asyncio
from typing import Protocol

from slotproxy.proxy.engines.failure import Failure
from slotproxy.proxy.engines.heads import Head


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
