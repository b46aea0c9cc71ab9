"""Memory and descriptors after 1,000 requests and after 10,000 with 2,000 that were left: `make chaos-soak`."""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import uvloop

from tests.chaos.orders import LEAVES, Manner, Order, fake_order
from tests.chaos.talk import play
from tests.chaos.tally import Reading
from tests.chaos.verdicts import Verdict
from tests.chaos.world import World
from tests.running import fake_engines

INSTANCES, CLIENTS = 4, 12
UNUSED = 6.0  # seconds; by then connections to engines that were kept for reuse are closed
GROWTH = 0.10  # of memory, at most
MANNERS = sorted(LEAVES, key=lambda manner: manner.name)


def order(number: int, leaves: int) -> Order:
    """Every `leaves`th client leaves."""
    stream = number % 2 == 0
    told = {"events": 6, "gap": 0.001} if stream else {"size": 2000}
    manner = MANNERS[number // leaves % len(MANNERS)] if number % leaves == 0 else Manner.PATIENT
    return fake_order(f"soak-{number}", told, stream=stream, manner=manner, patience=0.002, events=2)


async def run(folder: Path, requests: int, lefts: int, early: int) -> tuple[Reading, Reading, Counter[Verdict]]:
    """The proxy after `early` requests and after all."""
    (folder / "fake").mkdir()
    options = fake_engines(folder / "fake", "--forgetful", instances=INSTANCES)
    leaves = (requests + lefts) // lefts
    world = World("fake", folder / "fake", lambda client, patient: _patient(), slots=INSTANCES, stall=30.0)
    seen: Counter[Verdict] = Counter()
    numbers = iter(range(1, requests + lefts + 1))

    async def client(until: int) -> None:
        for number in numbers:
            judged = await play(world.port, order(number, leaves), never=0.0)
            seen[judged.verdict] += 1
            if judged.verdict in (Verdict.WRONG, Verdict.HUNG):
                print(judged.why, file=sys.stderr)
            if number >= until:
                return

    try:
        await world.start(*options)
        readings = []
        for until in (early, requests + lefts):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(CLIENTS):
                    tasks.create_task(client(until))
            await asyncio.sleep(UNUSED)
            readings.append(await world.at_rest())
        await world.stop()
        if world.tally.exit_code != 0 or world.tally.orphans:
            seen[Verdict.WRONG] += 1
    finally:
        world.end()
    return readings[0], readings[1], seen


def _patient() -> Iterator[Order]:
    number = 0
    while True:
        number += 1
        yield fake_order(f"patient-{number}", {}, stream=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--lefts", type=int, default=2_000, help="clients that leave, besides")
    parser.add_argument("--early", type=int, default=1_000, help="requests after which is read first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slotproxy-soak-") as scratch:
        early, late, seen = uvloop.run(run(Path(scratch), options.requests, options.lefts, options.early))
    growth = late.memory / early.memory - 1
    print(
        json.dumps(
            {
                "requests": seen.total(),
                **{verdict.value: seen[verdict] for verdict in Verdict},
                "memory MiB": [round(one.memory / 2**20, 1) for one in (early, late)],
                "memory growth": f"{growth:.1%}",
                "descriptors": [early.fds, late.fds],
                "tasks": [len(early.tasks), len(late.tasks)],
            },
            indent=2,
        )
    )
    sound = growth <= GROWTH and late.fds <= early.fds and not seen[Verdict.WRONG] and not seen[Verdict.HUNG]
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
