"""`mix`: long and short requests of many clients: who waits how long, and is service shared fairly?"""

import argparse
import asyncio
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep

from tests.conversations import haproxy_log, sites
from tests.conversations.chat import told
from tests.conversations.dialogues import ask, prose
from tests.conversations.report import Promise, Report, jain, percentile, ratio
from tests.conversations.sites import HAPROXY, SLOTPROXY, Conditions, Doors, Site
from tests.conversations.talk import CHAT, Turn, chat

RIVALS = (SLOTPROXY, HAPROXY)
HEADER = [
    *("", "requests", "queue wait p50 s", "p95", "of short ones p95", "TTFT p95 s"),
    *("Jain, service per second", "refused", "seconds"),
]
LOGGED_WITHIN = 0.5  # seconds from the end of an answer
OUTPUT_COSTS = 2  # a token of the answer, in tokens of the prompt: how service is counted
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One that a client asks. `thinks`: seconds before it."""

    text: str
    tokens: int  # of the answer; it is as long as that
    thinks: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of one. `wait`: seconds in a queue, as the proxy says; times are of the monotonic clock."""

    client: str
    request: Request
    turn: Turn
    wait: float
    asked: float
    ended: float

    @property
    def service(self) -> float:
        """In prompt tokens."""
        return self.turn.computed + OUTPUT_COSTS * self.turn.completion


def key(client: int) -> str:
    """The API key of a client, which is who it is to slotproxy."""
    return f"key-of-client-{client}"


def keys(clients: int) -> tuple[str, ...]:
    """Options for slotproxy."""
    return tuple(word for client in range(clients) for word in ("--api-key", key(client)))


async def ask_one(doors: Doors, client: int, request: Request) -> Served:
    """Keeps to nobody's turn but its own."""
    headers = {"Authorization": f"Bearer {key(client)}", "x-client": str(client)}
    body = chat([{"role": "user", "content": request.text}], request.tokens, ignore_eos=True)
    asked = monotonic()
    turn = await doors.turn(client, CHAT, body, headers)
    return Served(client=str(client), request=request, turn=turn, wait=turn.queued, asked=asked, ended=monotonic())


async def closed_loop(doors: Doors, client: int, requests: Sequence[Request]) -> list[Served]:
    """One request after the other."""
    found = []
    for request in requests:
        await asyncio.sleep(request.thinks)
        found.append(await ask_one(doors, client, request))
    return found


def with_waits(site: Site, served: Sequence[Served]) -> list[Served]:
    """HAProxy says in its log, not in the answer, how long a request queued; a client's requests are logged in turn."""
    if site.log is None:
        return list(served)
    sleep(LOGGED_WITHIN)
    logged: dict[str, list[float]] = {}
    for client, wait in haproxy_log.waits(site.log.read_text(errors="replace")):
        logged.setdefault(client, []).append(wait)
    return [_waited(one, logged.get(one.client, [])) for one in sorted(served, key=lambda one: one.ended)]


def _waited(one: Served, logged: list[float]) -> Served:
    return replace(one, wait=logged.pop(0) if logged else math.nan)


def plan(seed: int, chosen: argparse.Namespace) -> list[list[Request]]:
    """Every client asks long and short requests in an order of its own."""
    return [_requests(random.Random(f"mix/{seed}/{client}"), chosen) for client in range(chosen.clients)]


def _requests(chance: random.Random, chosen: argparse.Namespace) -> list[Request]:
    sizes = [chosen.long if chance.random() < chosen.share else chosen.short for _ in range(chosen.requests)]
    return [
        Request(text=f"{prose(chance, chosen.prompt)} {ask(chance)}", tokens=size, thinks=chance.uniform(0, 1))
        for size in sizes
    ]


async def load(site: Site, requests: Sequence[Sequence[Request]]) -> list[Served]:
    async with site.doors() as doors, asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(closed_loop(doors, client, own)) for client, own in enumerate(requests)]
    return [one for task in loops for one in task.result()]


@contextmanager
def site(name: str, folder: Path, chosen: argparse.Namespace, clients: int) -> Iterator[Site]:
    """With a key for each client. Raises `NotStarted`, `Missing`."""
    options = (*keys(clients), *chosen.option)
    with sites.site(name, Conditions(folder=folder, ctx=chosen.ctx, options=options, key=key(0))) as found:
        yield found


def rates(served: Sequence[Served]) -> list[float]:
    """Service per second of each client, until its last answer."""
    began = min(one.asked for one in served)
    clients: dict[str, list[Served]] = {}
    for one in served:
        clients.setdefault(one.client, []).append(one)
    return [sum(one.service for one in own) / (max(one.ended for one in own) - began) for own in clients.values()]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=16, help="with a key each (16)")
    parser.add_argument("--requests", type=int, default=6, help="of each client (6)")
    parser.add_argument("--long", type=int, default=400, help="tokens of a long answer (400)")
    parser.add_argument("--short", type=int, default=10, help="tokens of a short answer (10)")
    parser.add_argument("--share", type=float, default=0.25, help="of the requests that are long (0.25)")
    parser.add_argument("--prompt", type=int, default=30, help="tokens of a prompt, about (30)")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="who is measured")
    parser.add_argument("--ctx", type=int, default=2048, help="context of an engine (2048)")


def run(chosen: argparse.Namespace, folder: Path, say: Say) -> list[Report]:
    """Raises `NotStarted`, `Missing`."""
    place = folder / "mix"
    place.mkdir()
    found = {}
    for name in chosen.rivals:
        say(f"mix: {name}")
        with site(name, place, chosen, chosen.clients) as there:
            found[name] = with_waits(there, asyncio.run(load(there, plan(chosen.seed, chosen))))
    return [
        Report(
            title=f"{chosen.clients} clients, answers of {chosen.long} and of {chosen.short} tokens, 2 engines",
            header=HEADER,
            rows=[_row(name, served, chosen.short) for name, served in found.items()],
            promises=_promises(found),
            figures={name: [told_of(one) for one in served] for name, served in found.items()},
        )
    ]


def told_of(one: Served) -> Mapping[str, object]:
    return {"client": one.client, "tokens": one.request.tokens, "wait": one.wait, **told(one.turn)}


def _row(name: str, served: Sequence[Served], short: int) -> list[str]:
    waits, firsts = [one.wait for one in served], [one.turn.first for one in served]
    shorts = [one.wait for one in served if one.request.tokens == short]
    times = [percentile(waits, 50), percentile(waits, 95), percentile(shorts, 95), percentile(firsts, 95)]
    whole = max(one.ended for one in served) - min(one.asked for one in served)
    refused = sum(not one.turn.served for one in served)
    cells = [f"{time:.2f}" for time in times]
    return [name, str(len(served)), *cells, f"{jain(rates(served)):.3f}", str(refused), f"{whole:.0f}"]


def _promises(found: Mapping[str, Sequence[Served]]) -> list[Promise]:
    if set(found) != set(RIVALS):
        return []
    ours, theirs = ([one.wait for one in found[name]] for name in RIVALS)
    return [
        Promise(what="p95 queue wait, of HAProxy's", found=ratio(percentile(ours, 95), percentile(theirs, 95)), bound=1)
    ]
