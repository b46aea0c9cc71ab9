"""A proxy with engines, the clients at it, and what is done to them while they work."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.chaos import observe
from tests.chaos.orders import Order
from tests.chaos.schedule import WINDOW
from tests.chaos.talk import play
from tests.chaos.tally import Reading, Tally, given_up
from tests.chaos.verdicts import Judged
from tests.clients import ask
from tests.running import Running

READ_EARLY = 0.2  # of a run: by then the proxy has what it needs
SETTLED_WITHIN = 90.0  # seconds from the last fault until everything must be as it was
THINKS = 0.2  # seconds between two requests of a client, at most
IN_STEP = 0.05  # seconds between two looks

Orders = Callable[..., Iterator[Order]]


class World:
    """One proxy. `orders(client, patient=False)` says what clients ask for."""

    def __init__(self, name: str, folder: Path, orders: Orders, *, slots: int, stall: float) -> None:
        self.name, self.folder, self.orders = name, folder, orders
        self.slots, self.queue = slots, 3 * slots
        self.stall = stall  # seconds of the proxy's patience in the middle of an answer
        self.mark = uuid.uuid4().hex
        self.tally = Tally(name=name, seconds=0.0)
        self._tasks = folder / "tasks.json"
        self._proxy: Running | None = None

    @property
    def proxy(self) -> Running:
        assert self._proxy is not None
        return self._proxy

    @property
    def port(self) -> int:
        return self.proxy.port

    async def start(self, *options: str) -> None:
        env = observe.environment(self.mark, self._tasks)
        queue = ("--queue-limit", str(self.queue), "--queue-timeout", "20s")
        patience = ("--prefill-timeout", f"{1.5 * self.stall:.3g}s", "--stall-timeout", f"{self.stall}s")
        self._proxy = await asyncio.to_thread(Running.start, self.folder, *queue, *patience, *options, env=env)
        await asyncio.to_thread(self._proxy.wait_ready, self.slots)
        await self._round()
        await self._rest()
        self.tally.before = await observe.read(self._proxy, self._tasks)

    async def load(self, seconds: float, clients: int) -> None:
        """Clients that ask one request after the other, for so long."""
        self.tally.seconds = seconds
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_early(seconds * READ_EARLY))
            tasks.create_task(self._bring_back(until))
            for number in range(clients):
                tasks.create_task(self._client(number, until))

    async def order(self, order: Order) -> None:
        self.tally.count(await self._play(order))

    async def settle(self) -> None:
        """Wait until everything is as it was, and count what is not."""
        tally = self.tally
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_WITHIN):
                await self._settled()
        slots = await self._slots()
        tally.lost = sum(slot["state"] != "ready" for slot in slots)
        tally.leaked = sum(slot["is_processing"] for slot in slots)
        tally.shared = await self._shared()
        tally.given_up, tally.too_early = given_up(observe.setbacks(self.proxy.log))
        tally.after = await self.at_rest()
        tally.orphans = len(observe.strays(self.proxy, self.mark))

    async def at_rest(self) -> Reading:
        """The proxy when no slot is busy, and idle connections, which are kept for a while, are closed."""
        await self._rest()
        with suppress(TimeoutError):
            async with asyncio.timeout(15):
                while self.tally.before and psutil.Process(self.proxy.pid).num_fds() > self.tally.before.fds:
                    await asyncio.sleep(IN_STEP)
        return await observe.read(self.proxy, self._tasks)

    async def stop(self) -> None:
        """Stop the proxy, and look for what it left behind."""
        proxy = self.proxy
        try:
            self.tally.exit_code = await asyncio.to_thread(proxy.stop)
        except AssertionError as error:
            self.tally.trouble.append(str(error))
        await asyncio.sleep(0.2)
        self.tally.orphans += len(observe.marked(self.mark))

    def end(self) -> None:
        """Whatever has happened: leave nothing."""
        for process in observe.marked(self.mark):
            with suppress(psutil.Error):
                process.kill()
        if self._proxy is not None:
            self._proxy.process.wait()

    # what the faults need

    async def engine(self, number: int) -> psutil.Process | None:
        """The engine of a ready instance."""
        for slot in await self._slots():
            if slot["instance"] == str(number) and slot["state"] == "ready" and slot["pid"] is not None:
                with suppress(psutil.Error):
                    return psutil.Process(slot["pid"])
        return None

    def setbacks(self, number: int | None) -> int:
        """How often the instance failed lately; without a number, the one that failed most."""
        found = observe.setbacks(self.proxy.log)
        now = max((at for at, _, _ in found), default=0.0)
        lately = Counter(of for at, of, _ in found if now - at < WINDOW)
        return max(lately.values(), default=0) if number is None else lately[str(number)]

    async def recovered(self, number: int, *, replaced: psutil.Process | None, fault: str) -> None:
        """Until the instance is ready again, by another process than `replaced`; how long it took is told."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            engine = await self.engine(number)
            if engine is not None and engine != replaced:
                break
            if loop.time() - began > SETTLED_WITHIN:
                return  # `settle` counts it
            await asyncio.sleep(IN_STEP)
        self.tally.recoveries.append((loop.time() - began, fault))

    # small change

    async def _play(self, order: Order) -> Judged:
        return await play(self.port, order, never=2.5 * self.stall)

    async def _client(self, number: int, until: float) -> None:
        clock = asyncio.get_running_loop().time
        pace = random.Random(number)
        for order in self.orders(number):
            if clock() > until:
                return
            await self.order(order)
            await asyncio.sleep(pace.uniform(0, THINKS))

    async def _bring_back(self, until: float) -> None:
        """What an operator would do with an instance that was given up."""
        while asyncio.get_running_loop().time() < until:
            for slot in await self._slots():
                if slot["state"] == "failed":
                    await ask(self.port, "POST", f"/slotproxy/api/instances/{slot['instance']}/restart", {})
            await asyncio.sleep(1.0)

    async def _read_early(self, after: float) -> None:
        await asyncio.sleep(after)
        self.tally.early = psutil.Process(self.proxy.pid).memory_info().rss

    async def _settled(self) -> None:
        """Requests that keep every slot busy at once find engines that nobody has noticed to be dead."""
        while True:
            await self._round()
            await self._rest()
            slots = await self._slots()
            if all(slot["state"] == "ready" for slot in slots) and await self._round():
                return await self._rest()
            await asyncio.sleep(IN_STEP)

    async def _round(self) -> bool:
        """Patient requests, more than there are slots; whether all were completed."""
        orders = self.orders("settling", patient=True)
        async with asyncio.TaskGroup() as tasks:
            played = [tasks.create_task(self._play(next(orders))) for _ in range(2 * self.slots)]
        for one in played:
            self.tally.count(one.result())
        return all(one.result().verdict.name == "COMPLETED" for one in played)

    async def _rest(self) -> None:
        while any(slot["is_processing"] for slot in await self._slots()):
            await asyncio.sleep(IN_STEP)

    async def _slots(self) -> list[dict[str, Any]]:
        slots: list[dict[str, Any]] = (await ask(self.port, "GET", "/slots")).json()
        return slots

    async def _shared(self) -> int:
        """Engines that tell of it and ever had two requests at once."""
        found = 0
        for slot in await self._slots():
            if self.name != "fake" or slot["pid"] is None:
                continue
            (port,) = {
                one.laddr.port for one in psutil.Process(slot["pid"]).net_connections("tcp") if one.status == "LISTEN"
            }
            found += (await ask(port, "GET", "/fake/received")).json()["peak"] > 1
        return found
