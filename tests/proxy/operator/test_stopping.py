"""The proxy stops once, and whoever waits hears of it at once."""

import asyncio

from slotproxy.proxy.operator.stopping import Stopping


async def test_it_is_not_stopping_until_that_begins_and_then_for_good() -> None:
    stopping = Stopping()
    await stopping.wait(0.001)
    assert not stopping.stopping
    stopping.begin()
    stopping.begin()
    assert stopping.stopping


async def test_a_wait_ends_when_it_begins() -> None:
    stopping = Stopping()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(stopping.wait(3600))
        await asyncio.sleep(0)
        stopping.begin()
        await waiting
    await stopping.wait(3600)
