"""`flood`: one client asks for everything at once while others ask now and then: how long do those wait?"""

import argparse
import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.conversations.dialogues import ask, prose
from tests.conversations.mix import RIVALS, Request, Served, ask_one, closed_loop, site, told_of, with_waits
from tests.conversations.report import Promise, Report, jain, mean, percentile
from tests.conversations.sites import SLOTPROXY, Doors, Site

HEADER = [
    *("", "others wait p50 s", "p95", "longest", "fair s", "longest of fair", "flooder waits p50 s"),
    *("served", "refused", "others refused", "Jain of others"),
]
FLOODER, SLOTS = 0, 2
QUEUE = ("--queue-limit", "1024", "--queue-timeout", "1h")  # HAProxy's queue is as long and as patient
Say = Callable[[str], None]


def request(chance: random.Random, chosen: argparse.Namespace, thinks: float) -> Request:
    return Request(text=f"{prose(chance, chosen.prompt)} {ask(chance)}", tokens=chosen.answer, thinks=thinks)


async def flooded(place: Site, chosen: argparse.Namespace) -> list[Served]:
    """All requests of the flooder at once; the others ask until they are through, then the flood is left."""
    floods = [request(random.Random(f"flood/{n}"), chosen, 0) for n in range(chosen.requests)]
    others = {client: _others(client, chosen) for client in range(1, chosen.others + 1)}
    served: list[Served] = []

    async def flood_one(doors: Doors, one: Request) -> None:
        served.append(await ask_one(doors, FLOODER, one))

    async def other(doors: Doors, client: int, own: Sequence[Request]) -> None:
        served.extend(await closed_loop(doors, client, own))

    async with place.doors() as doors, asyncio.TaskGroup() as tasks:
        flood = [tasks.create_task(flood_one(doors, one)) for one in floods]
        loops = [tasks.create_task(other(doors, client, own)) for client, own in others.items()]
        await asyncio.wait(loops)
        for task in flood:
            task.cancel()
    return served


def _others(client: int, chosen: argparse.Namespace) -> list[Request]:
    chance = random.Random(f"flood/{chosen.seed}/{client}")
    return [request(chance, chosen, chance.uniform(*chosen.thinks)) for _ in range(chosen.each)]


def of_others(served: Sequence[Served]) -> list[Served]:
    return [one for one in served if one.client != str(FLOODER)]


def service_time(served: Sequence[Served]) -> float:
    """Seconds that an engine works on one request."""
    return mean([one.ended - one.asked - one.wait for one in served if one.turn.served])


def fair_wait(one: Served, served: Sequence[Served], service: float) -> float:
    """Seconds that it waits where everybody who asks at that time, the flooder too, is served in turn."""
    asking = {other.client for other in of_others(served) if other.asked <= one.asked <= other.ended}
    return (len(asking) + 1) * service / SLOTS


def of_fair_share(served: Sequence[Served]) -> list[float]:
    """Of every request that is not the flooder's: its wait beside a fair one."""
    service = service_time(served)
    return [one.wait / fair_wait(one, served, service) for one in of_others(served) if one.turn.served]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=200, help="of the client that floods (200)")
    parser.add_argument("--others", type=int, default=5, help="clients that ask now and then (5)")
    parser.add_argument("--each", type=int, default=8, help="requests of each of them (8)")
    parser.add_argument("--thinks", type=float, nargs=2, default=[1.0, 4.0], help="seconds between them (1 4)")
    parser.add_argument("--answer", type=int, default=24, help="tokens of every answer (24)")
    parser.add_argument("--prompt", type=int, default=30, help="tokens of a prompt, about (30)")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="who is measured")
    parser.add_argument("--ctx", type=int, default=2048, help="context of an engine (2048)")


def run(chosen: argparse.Namespace, folder: Path, say: Say) -> list[Report]:
    """Raises `NotStarted`, `Missing`."""
    place = folder / "flood"
    place.mkdir()
    chosen.option = [*QUEUE, *chosen.option]
    found = {}
    for name in chosen.rivals:
        say(f"flood: {name}")
        with site(name, place, chosen, chosen.others + 1) as there:
            found[name] = with_waits(there, asyncio.run(flooded(there, chosen)))
    return [
        Report(
            title=f"One client asks {chosen.requests} at once, {chosen.others} others ask now and then, 2 engines",
            header=HEADER,
            rows=[_row(name, served) for name, served in found.items()],
            promises=_promises(found),
            figures={name: [told_of(one) for one in served] for name, served in found.items()},
        )
    ]


def _row(name: str, served: Sequence[Served]) -> list[str]:
    others = of_others(served)
    flooder = [one for one in served if one.client == str(FLOODER)]
    waits, service = [one.wait for one in others], service_time(served)
    fair = mean([fair_wait(one, served, service) for one in others])
    times = [f"{percentile(waits, percent):.2f}" for percent in (50, 95, 100)]
    refused = [sum(not one.turn.served for one in some) for some in (flooder, others)]
    shares = [f"{fair:.2f}", f"{percentile(of_fair_share(served), 100):.2f}x"]
    theirs = [f"{percentile([one.wait for one in flooder], 50):.2f}", f"{len(flooder) - refused[0]}"]
    return [name, *times, *shares, *theirs, *map(str, refused), f"{_jain(served):.3f}"]


def _jain(served: Sequence[Served]) -> float:
    """Of the speed at which each client but the flooder is served from the moment it asks."""
    clients: dict[str, list[float]] = {}
    for one in of_others(served):
        clients.setdefault(one.client, []).append(one.service / (one.ended - one.asked))
    return jain([mean(speeds) for speeds in clients.values()])


def _promises(found: Mapping[str, Sequence[Served]]) -> list[Promise]:
    if SLOTPROXY not in found:
        return []
    served = found[SLOTPROXY]
    refused = sum(not one.turn.served for one in of_others(served))
    most = percentile(of_fair_share(served), 100)
    return [
        Promise(what="longest wait of anybody else, of its fair share", found=most, bound=2),
        Promise(what="requests refused to others", found=refused, bound=0, unit=""),
    ]
