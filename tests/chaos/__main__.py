"""Faults at random while clients work: `make chaos SECONDS=600 SEED=7`, or `python -m tests.chaos --help`.

Two proxies run side by side: one with real engines and one real upstream behind a relay, one with engines of the tests
that misbehave in every way. Clients know the right answer to everything they ask. The same seed makes the same schedule
and the same requests; what meets what depends on the machine. Exit code 1: something was wrong.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import uvloop

from slotproxy.instances.models import demo
from tests.chaos import undisturbed
from tests.chaos.faults import Faults
from tests.chaos.orders import PROMPTS, fake_orders, real_orders
from tests.chaos.schedule import Injection, schedule
from tests.chaos.tally import Tally, table
from tests.chaos.world import World
from tests.running import fake_engines, real_engine, write_real_profile

SHORT = 30.0  # seconds; a shorter run asks fewer different questions, and its proxies are less patient


async def run(seed: int, seconds: float, folder: Path, instances: dict[str, int], every: float) -> list[Tally]:
    """What became of it, per world."""
    plan = schedule(seed, seconds, instances, every)
    prompts, stall = (2, 1.2) if seconds < SHORT else (len(PROMPTS), 3.0)
    async with AsyncExitStack() as exits:
        worlds = []
        if instances.get("real"):
            worlds.append(await exits.enter_async_context(_real(seed, folder, instances["real"], prompts, stall)))
        if instances.get("fake"):
            worlds.append(await exits.enter_async_context(_fake(seed, folder, instances["fake"], stall)))
        async with asyncio.TaskGroup() as tasks:
            for world, faults in worlds:
                tasks.create_task(_live(world, faults, [one for one in plan if one.world == world.name], seconds))
        return [world.tally for world, _ in worlds]


async def _live(world: World, faults: Faults, plan: list[Injection], seconds: float) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(world.load(seconds, 2 * world.slots))
        tasks.create_task(_inject(faults, plan))
    await world.settle()
    await world.stop()


async def _inject(faults: Faults, plan: list[Injection]) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for injection in plan:
            await asyncio.sleep(began + injection.at - loop.time())
            tasks.create_task(faults.inject(injection))


@asynccontextmanager
async def _real(
    seed: int, folder: Path, instances: int, prompts: int, stall: float
) -> AsyncIterator[tuple[World, Faults]]:
    model = demo.fetch()
    profile = write_real_profile(folder / "real", term=0.5, again=0.5)
    async with undisturbed.engine(model) as port, undisturbed.Relay(port) as relay:
        orders = partial(real_orders, seed, answers=await undisturbed.answers(port, prompts))
        world = World("real", folder / "real", orders, slots=instances + 1, stall=stall)
        upstream = ("--upstream", f"http://127.0.0.1:{relay.port}")
        try:
            await world.start("--engine", str(profile), *upstream, *real_engine(model, instances))
            yield world, Faults(world, relay)
        finally:
            world.end()


@asynccontextmanager
async def _fake(seed: int, folder: Path, instances: int, stall: float) -> AsyncIterator[tuple[World, Faults]]:
    options = fake_engines(folder / "fake", "--forgetful", "--children", "1", instances=instances, term=0.3, idle=2.0)
    orders = partial(fake_orders, seed)
    world = World("fake", folder / "fake", orders, slots=instances, stall=stall)
    try:
        await world.start(*options)
        yield world, Faults(world)
    finally:
        world.end()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=int, default=2, help="instances with the real engine; 0: none")
    parser.add_argument("--fake", type=int, default=4, help="instances with the engine of the tests; 0: none")
    parser.add_argument("--every", type=float, default=1.2, help="seconds between two faults of a proxy, on average")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave the logs there")
    options = parser.parse_args()
    instances = {name: count for name in ("real", "fake") if (count := getattr(options, name))}
    with tempfile.TemporaryDirectory(prefix="slotproxy-chaos-") as scratch:
        folder = options.keep or Path(scratch)
        for name in instances:
            (folder / name).mkdir(parents=True)
        tallies = uvloop.run(run(options.seed, options.seconds, folder, instances, options.every))
    print(f"seed {options.seed}, {options.seconds:g} s\n")
    print(table(tallies))
    if options.json:
        report = {"seed": options.seed, "seconds": options.seconds}
        options.json.write_text(json.dumps(report | {tally.name: tally.figures() for tally in tallies}, indent=2))
    problems = [f"{tally.name}: {problem}" for tally in tallies for problem in tally.problems()]
    print("\n" + ("\n".join(["Wrong:", *problems]) if problems else "Nothing is wrong."))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
