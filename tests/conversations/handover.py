"""`handover`: what a conversation's move to another engine costs beside reading its prompt again, and after a crash."""

import argparse
import asyncio
import os
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.conversations import sites
from tests.conversations.dialogues import ask, prose
from tests.conversations.report import Promise, Report, mean
from tests.conversations.sites import SLOTPROXY, Conditions, Proxy
from tests.conversations.talk import CHAT, Body, Client, Turn, chat

HEADER = ["", "prompt tokens", "cold prefill s", "save ms", "restore ms", "of the prefill", "next turn computes", "MB"]
ANSWER = 8  # tokens
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One conversation's move. Times are seconds."""

    prompt: int  # tokens
    prefill: float  # from the question to the first token, nothing cached
    save: float
    restore: float
    computed: int  # prompt tokens of the next turn, elsewhere
    size: int  # bytes of the file

    @property
    def share(self) -> float:
        return (self.save + self.restore) / self.prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The turn after the engine that held the conversation was killed. `instance`: where it went."""

    before: Turn
    after: Turn


def conversation(seed: int, number: int, tokens: int) -> tuple[list[Body], str]:
    """A first turn of about so many tokens, and what is asked next."""
    chance = random.Random(f"handover/{seed}/{number}")
    return [{"role": "user", "content": f"{prose(chance, tokens)} {ask(chance)}"}], ask(chance)


def continued(messages: Sequence[Body], answer: Turn, question: str) -> list[Body]:
    return [*messages, {"role": "assistant", "content": answer.text}, {"role": "user", "content": question}]


async def moved(here: Client, there: Client, store: Path, talk: tuple[list[Body], str]) -> Move:
    """Begin at one engine, save, restore into another and go on there. Raises aiohttp.ClientError."""
    messages, question = talk
    first = await here.turn(CHAT, chat(messages, ANSWER, cache_prompt=False))
    saved = await timed(here, "save")
    restored = await timed(there, "restore")
    after = await there.turn(CHAT, chat(continued(messages, first, question), ANSWER))
    size = (store / "moved").stat().st_size
    return Move(
        prompt=first.prompt, prefill=first.first, save=saved, restore=restored, computed=after.computed, size=size
    )


async def timed(client: Client, action: str) -> float:
    """Seconds that saving or restoring the slot took, as the one who asks for it sees it."""
    began = monotonic()
    await client.json("POST", f"/slots/0?action={action}", {"filename": "moved"})
    return monotonic() - began


async def moves(ports: Sequence[int], store: Path, talks: Sequence[tuple[list[Body], str]]) -> list[Move]:
    async with Client.at(ports[0]) as here, Client.at(ports[1]) as there:
        return [await moved(here, there, store, talk) for talk in talks]


def direct(folder: Path, ctx: int, talks: Sequence[tuple[list[Body], str]]) -> list[Move]:
    """Between two engines that share a folder. Raises `NotStarted`, aiohttp.ClientError."""
    store = folder / "store"
    store.mkdir()
    kept = ("--slot-save-path", f"{store}/", "--cache-ram", "64")
    with sites.engine(folder, ctx, *kept) as here, sites.engine(folder, ctx, *kept) as there:
        return asyncio.run(moves((here, there), store, talks))


async def crashed(proxy: Proxy, talk: tuple[list[Body], str], pause: float) -> Crash:
    """Kill the engine that has answered, between two turns."""
    messages, question = talk
    async with Client.at(proxy.port) as client:
        before = await client.turn(CHAT, chat(messages, ANSWER))
        await asyncio.sleep(pause)
        for slot in proxy.slots():
            if slot["instance"] == before.instance and slot["pid"]:
                os.kill(slot["pid"], signal.SIGKILL)
        return Crash(before=before, after=await client.turn(CHAT, chat(continued(messages, before, question), ANSWER)))


def crashes(conditions: Conditions, talks: Sequence[tuple[list[Body], str]], pause: float) -> list[Crash]:
    """Raises `NotStarted`, `Missing`."""
    found = []
    with sites.slotproxy(conditions, SLOTPROXY) as proxy:
        for talk in talks:
            found.append(asyncio.run(crashed(proxy, talk, pause)))
            proxy.wait_ready(conditions.instances)
    return found


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=1300, help="of the first turn, about (1300)")
    parser.add_argument("--repeats", type=int, default=5, help="conversations moved, and engines killed (5)")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds from an answer until its engine is killed (1)"
    )
    parser.add_argument("--ctx", type=int, default=2048, help="context of an engine (2048)")


def run(chosen: argparse.Namespace, folder: Path, say: Say) -> list[Report]:
    """Raises `NotStarted`, `Missing`, aiohttp.ClientError."""
    place = folder / "handover"
    place.mkdir()
    talks = [conversation(chosen.seed, number, chosen.tokens - 60) for number in range(2 * chosen.repeats)]
    say("handover: between two engines")
    moved_ = direct(place, chosen.ctx, talks[: chosen.repeats])
    say("handover: kill -9 of the engine that holds the conversation")
    conditions = Conditions(folder=place, ctx=chosen.ctx, options=tuple(chosen.option))
    killed = crashes(conditions, talks[chosen.repeats :], chosen.pause)
    return [_moves(moved_), _crashes(killed)]


def _moves(moved_: Sequence[Move]) -> Report:
    def row(name: str, chosen: Sequence[Move]) -> list[str]:
        figures = [mean([move.prefill for move in chosen]), mean([move.save for move in chosen]) * 1e3]
        figures += [mean([move.restore for move in chosen]) * 1e3, mean([move.share for move in chosen])]
        prefill, save, restore, share = figures
        counts = [mean([move.prompt for move in chosen]), mean([move.computed for move in chosen])]
        size = mean([move.size for move in chosen]) / 1e6
        left = [name, f"{counts[0]:.0f}", f"{prefill:.2f}", f"{save:.1f}", f"{restore:.1f}"]
        return [*left, f"{share:.2%}", f"{counts[1]:.0f}", f"{size:.1f}"]

    share = 100 * mean([move.share for move in moved_])
    return Report(
        title="Save at one engine and restore into another, beside a cold prefill: direct",
        header=HEADER,
        rows=[*(row(str(n), [move]) for n, move in enumerate(moved_, 1)), row("mean", moved_)],
        promises=[Promise(what="save + restore, of the cold prefill", found=share, bound=3, unit=" %")],
        figures={"moves": [_plain(move) for move in moved_]},
    )


def _plain(move: Move) -> dict[str, float]:
    names = ("prompt", "prefill", "save", "restore", "computed", "size", "share")
    return {name: getattr(move, name) for name in names}


def _crashes(killed: Sequence[Crash]) -> Report:
    rows = []
    for number, crash in enumerate(killed, 1):
        before, after = crash.before, crash.after
        times = [f"{before.first:.2f}", f"{after.first:.2f}"]
        where = f"{before.instance} -> {after.instance}"
        rows.append([str(number), where, *times, f"{after.prompt}", f"{after.computed}", after.affinity])
    most = max((crash.after.computed if crash.after.served else float("inf") for crash in killed), default=float("nan"))
    return Report(
        title="kill -9 of the engine between two turns, through slotproxy",
        header=["", "instance", "TTFT before s", "after s", "prompt tokens after", "computed", "affinity"],
        rows=rows,
        promises=[Promise(what="prompt tokens that the next turn computes, at worst", found=most, bound=63, unit="")],
        figures={"computed": [crash.after.computed for crash in killed]},
    )
