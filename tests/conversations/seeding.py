"""`seeding`: new conversations that share a system prompt, engines restarted half-way: is it computed once?"""

import argparse
import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conversations import sites
from tests.conversations.chat import told
from tests.conversations.dialogues import ask, prose
from tests.conversations.report import Promise, Report, mean, percentile
from tests.conversations.sites import HAPROXY, ORACLE, SLOTPROXY, Conditions, Doors, Site
from tests.conversations.talk import CHAT, Body, Client, Turn, chat

RIVALS = (SLOTPROXY, HAPROXY, ORACLE)
HEADER = ["", "TTFT p50 s", "mean", "prompt tokens computed", "their own", "beyond their own", "refused", "affinity"]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Tokens, as an engine counts them: what all prompts begin with, and what each has beyond it."""

    common: int
    own: Sequence[int]


def openings(seed: int, count: int, system: int, own: int) -> list[list[Body]]:
    """First turns with one system prompt."""
    chance = random.Random(f"seeding/{seed}")
    shared = {"role": "system", "content": prose(chance, system)}
    return [[shared, {"role": "user", "content": f"{prose(chance, own)} {ask(chance)}"}] for _ in range(count)]


async def sizes(port: int, said: Sequence[list[Body]]) -> Sizes:
    """Raises aiohttp.ClientError."""
    async with Client.at(port) as client:
        tokens = [await _tokens(client, messages) for messages in said]
    common = common_length(tokens)
    return Sizes(common=common, own=[len(each) - common for each in tokens])


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """Of what all begin with."""
    columns = enumerate(zip(*rows, strict=False))
    return next((length for length, column in columns if len(set(column)) > 1), min(map(len, rows)))


async def _tokens(client: Client, messages: list[Body]) -> list[int]:
    prompt = (await client.json("POST", "/apply-template", {"messages": messages}))["prompt"]
    answer = await client.json("POST", "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    tokens: list[int] = answer["tokens"]
    return tokens


async def begin(site: Site, said: Sequence[list[Body]], offset: int, clients: int, answer: int) -> list[Turn]:
    """The first one alone, as somebody is always the first; then by so many clients at once."""
    turns: dict[int, Turn] = {}
    waiting = iter(range(1, len(said)))

    async def one(doors: Doors, number: int) -> None:
        who = offset + number
        turns[number] = await doors.turn(who, CHAT, chat(said[number], answer), {"x-client": str(who)})

    async def client(doors: Doors) -> None:
        for number in waiting:
            await one(doors, number)

    async with site.doors() as doors:
        await one(doors, 0)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(client(doors))
    return [turns[number] for number in sorted(turns)]


def through(name: str, conditions: Conditions, said: Sequence[list[Body]], clients: int, answer: int) -> list[Turn]:
    """Half of the conversations, a restart of every engine, the other half. Raises `NotStarted`, `Missing`."""
    half = len(said) // 2
    with sites.slotproxy(conditions, name) as proxy:
        with sites.in_front(name, proxy) as site:
            turns = asyncio.run(begin(site, said[:half], 0, clients, answer))
        proxy.restart()
        with sites.in_front(name, proxy) as site:
            return turns + asyncio.run(begin(site, said[half:], half, clients, answer))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conversations", type=int, default=20, help="new ones (20)")
    parser.add_argument("--system", type=int, default=1000, help="tokens of their system prompt, about (1000)")
    parser.add_argument("--own", type=int, default=100, help="tokens of what each one asks, about (100)")
    parser.add_argument("--clients", type=int, default=2, help="at once (2)")
    parser.add_argument("--answer", type=int, default=8, help="tokens, at most (8)")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="who is measured")
    parser.add_argument("--ctx", type=int, default=2048, help="context of an engine (2048)")


def run(chosen: argparse.Namespace, folder: Path, say: Say) -> list[Report]:
    """Raises `NotStarted`, `Missing`, aiohttp.ClientError."""
    place = folder / "seeding"
    place.mkdir()
    conditions = Conditions(folder=place, ctx=chosen.ctx, options=tuple(chosen.option))
    said = openings(chosen.seed, chosen.conversations, chosen.system, chosen.own)
    with sites.engine(place, chosen.ctx) as port:
        size = asyncio.run(sizes(port, said))
    found = {}
    for name in chosen.rivals:
        say(f"seeding: {name}")
        found[name] = through(name, conditions, said, chosen.clients, chosen.answer)
    return [
        Report(
            title=f"{len(said)} new conversations, {size.common} tokens in common, every engine restarted half-way",
            header=HEADER,
            rows=[_row(name, turns, size) for name, turns in found.items()],
            promises=_promises(found, size),
            figures={name: [told(turn) for turn in turns] for name, turns in found.items()},
        )
    ]


def _row(name: str, turns: Sequence[Turn], size: Sizes) -> list[str]:
    firsts, words = [turn.first for turn in turns], [turn.affinity for turn in turns]
    computed, own = sum(turn.computed for turn in turns), sum(size.own)
    counts = [f"{computed}", f"{own}", f"{computed - own}", f"{sum(not turn.served for turn in turns)}"]
    affinity = ", ".join(f"{word} {words.count(word)}" for word in sorted(set(words)))
    return [name, f"{percentile(firsts, 50):.2f}", f"{mean(firsts):.2f}", *counts, affinity]


def _promises(found: dict[str, list[Turn]], size: Sizes) -> list[Promise]:
    if SLOTPROXY not in found:
        return []
    ours, most = found[SLOTPROXY], size.common + 1.15 * sum(size.own)
    computed = sum(turn.computed for turn in ours)
    return [Promise(what="prompt tokens computed: common + 1.15 x own", found=computed, bound=most, unit="")]
