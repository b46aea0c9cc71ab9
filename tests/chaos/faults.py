"""Does to a world what the schedule says."""

import asyncio
import random
import signal
from pathlib import Path

import psutil

from tests.chaos import observe
from tests.chaos.orders import fake_order
from tests.chaos.schedule import DEADLY, MOST, Fault, Injection
from tests.chaos.undisturbed import Relay
from tests.chaos.world import World
from tests.clients import ask

GUARDIAN = "slotproxy-guardian"  # in its command line


class Faults:
    """Of one world. `relay` is what stands before its upstream, if it has one."""

    def __init__(self, world: World, relay: Relay | None = None) -> None:
        self._world = world
        self._relay = relay

    async def inject(self, injection: Injection) -> None:
        """Returns when the fault is over and, where it hit an instance, that has recovered."""
        done = await self._apply(injection)
        self._world.tally.inject(injection, done=done)

    async def _apply(self, injection: Injection) -> bool:
        """False: not possible now."""
        match injection.fault:
            case Fault.KILL | Fault.STOP | Fault.PAUSE:
                return await self._signal(injection)
            case Fault.DIE | Fault.HANG:
                return await self._bad_request(injection)
            case Fault.RESTART:
                return await self._restart(injection)
            case Fault.ROLL:
                answer = await ask(self._world.port, "POST", "/slotproxy/api/instances/restart", {})
                return answer.status == 202
            case Fault.GUARDIAN:
                return self._kill_guardian()
            case Fault.RELOAD:
                return self._reload()
            case Fault.BURST:
                return await self._burst(injection)
            case Fault.RESET | Fault.REFUSE:
                return await self._sever(injection)

    async def _signal(self, injection: Injection) -> bool:
        engine = await self._world.engine(injection.target)
        if engine is None or self._is_weak(injection, injection.target):
            return False
        if injection.fault is Fault.KILL:
            engine.kill()
        else:
            engine.suspend()
        if injection.fault is Fault.PAUSE:
            await asyncio.sleep(injection.seconds)
            if engine.is_running():
                engine.resume()
            return True
        await self._world.recovered(injection.target, replaced=engine, fault=injection.fault.value)
        return True

    def _is_weak(self, injection: Injection, number: int | None) -> bool:
        """Whether what the fault would hit has failed so often by itself that it might be given up."""
        return injection.fault in DEADLY and self._world.setbacks(number) >= MOST

    async def _bad_request(self, injection: Injection) -> bool:
        """Whichever engine gets it dies or hangs; another that gets it then does not."""
        if self._is_weak(injection, None):
            return False
        dice = random.Random(injection.seed)
        fail = "die" if injection.fault is Fault.DIE else "hang"
        flag: Path = self._world.folder / f"flag-{injection.seed}"
        stream = dice.random() < 0.7
        told = {"fail": fail, "after": dice.choice((-1, 0, 3)) if stream else -1, "only_first": str(flag)}
        await self._world.order(fake_order(f"{fail}-{injection.seed}", told, stream=stream))
        return True

    async def _restart(self, injection: Injection) -> bool:
        path = f"/slotproxy/api/instances/{injection.target}/restart"
        engine = await self._world.engine(injection.target)
        if engine is None:
            return False
        answer = await ask(self._world.port, "POST", path, {})
        if answer.status in (404, 409):
            return False
        await self._world.recovered(injection.target, replaced=engine, fault=injection.fault.value)
        return True

    def _kill_guardian(self) -> bool:
        for child in psutil.Process(self._world.proxy.pid).children():
            if GUARDIAN in child.cmdline():
                child.kill()
                return True
        return False

    def _reload(self) -> bool:
        pid = self._world.proxy.pid
        if not observe.handles(pid, signal.SIGHUP):
            return False
        self._world.proxy.process.send_signal(signal.SIGHUP)
        return True

    async def _burst(self, injection: Injection) -> bool:
        orders = self._world.orders(f"burst-{injection.seed}")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._world.slots + self._world.queue + 5):
                tasks.create_task(self._world.order(next(orders)))
        return True

    async def _sever(self, injection: Injection) -> bool:
        relay = self._relay
        if relay is None:
            return False
        if injection.fault is Fault.REFUSE:
            relay.refusing = True
        relay.reset()
        if injection.fault is Fault.REFUSE:
            await asyncio.sleep(injection.seconds)
            relay.refusing = False
        return True
