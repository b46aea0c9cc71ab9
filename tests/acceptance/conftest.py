"""Proxies in front of fake engines that run in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients import ask
from tests.fake_engine import FakeEngine
from tests.running import Running, StartProxy


@dataclass(kw_only=True)
class Behind:
    """A proxy and the engines behind it."""

    proxy: Running
    port: int
    engines: list[FakeEngine]

    @property
    def engine(self) -> FakeEngine:
        (only,) = self.engines
        return only

    async def queued(self) -> int:
        return int((await ask(self.port, "GET", "/health")).json()["queued"])

    async def busy(self) -> int:
        slots = (await ask(self.port, "GET", "/slots")).json()
        return sum(slot["is_processing"] for slot in slots)

    async def waits(self, count: int = 1) -> bool:
        return await self.queued() == count

    async def rests(self) -> bool:
        return await self.busy() == 0

    async def works(self) -> bool:
        return await self.busy() > 0


StartBehind = Callable[..., Awaitable[Behind]]


@pytest.fixture
async def behind(start_proxy: StartProxy) -> AsyncIterator[StartBehind]:
    """`await behind("--option", ..., count=2, slots=1, **of_each_engine)`: a proxy whose upstreams are ready."""
    async with AsyncExitStack() as exits:

        async def start(*options: str, count: int = 1, slots: int = 1, **engine: Any) -> Behind:
            engines = [await exits.enter_async_context(FakeEngine(**engine)) for _ in range(count)]
            upstreams = [word for one in engines for word in ("--upstream", f"{one.url},slots={slots}")]
            proxy = start_proxy(*upstreams, *options)
            # In a thread: the proxy asks its upstreams how they are, and they answer from this loop.
            await asyncio.to_thread(proxy.wait_ready, count)
            return Behind(proxy=proxy, port=proxy.port, engines=engines)

        yield start
