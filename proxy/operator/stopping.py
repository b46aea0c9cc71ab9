"""Whether the proxy is stopping. The page of readiness tells it, and every stream of events ends."""

import asyncio
import contextlib


class Stopping:
    """It begins once and is never undone."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()

    @property
    def stopping(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        self._begun.set()

    async def wait(self, seconds: float) -> None:
        """Return when it has begun, after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun.wait()
