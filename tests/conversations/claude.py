"""`claude`: agents with a long shared prompt, a line that changes with every request, and sub-agents."""

import argparse
import asyncio
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conversations import sites
from tests.conversations.chat import told
from tests.conversations.dialogues import ask, prose
from tests.conversations.report import Promise, Report, mean, percentile, ratio
from tests.conversations.sites import HAPROXY, ORACLE, SLOTPROXY, Conditions, Doors, Site
from tests.conversations.talk import CHAT, MESSAGES, Body, Turn, chat

RIVALS = (SLOTPROXY, HAPROXY, ORACLE)
HEADER = [
    *("", "turns", "found what they had, of later turns", "engine had most of it", "prompt tokens cached", "computed"),
    *("TTFT of later turns p50 s", "mean", "refused"),
]
WARM = ("hit", "handed-over")
BYTES_PER_TOKEN = 5.5  # of `prose`, about
MODEL = "demo"
TOOLS = ("Read", "Write", "Bash", "Grep")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """An agent, or one of its sub-agents, which begins at the turn `after` of its parent."""

    name: str
    session: str
    texts: tuple[str, ...]
    place: int  # by which the client that knows everything pins it
    subs: tuple[tuple[int, "Thread"], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What all of them send before anything of their own."""

    system: str
    threads: tuple[Thread, ...]
    api: str  # the path
    headers: bool  # whether the session is named in a header


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A turn; `had`: prompt tokens of the same thread's turn before, 0 at the first."""

    turn: Turn
    had: int


def trace(seed: int, chosen: argparse.Namespace) -> Trace:
    chance = random.Random(f"claude/{seed}")
    system = prose(chance, round(chosen.system / BYTES_PER_TOKEN))
    agents = tuple(_agent(chance, number, chosen) for number in range(chosen.agents))
    return Trace(system=system, threads=agents, api=chosen.api, headers=not chosen.anonymous)


def _agent(chance: random.Random, number: int, chosen: argparse.Namespace) -> Thread:
    session = str(uuid.UUID(int=chance.getrandbits(128)))
    places = sorted(chance.sample(range(1, chosen.turns), min(chosen.subs, chosen.turns - 1)))
    subs = tuple(
        (after, Thread(name=f"{number}.{n}", session=session, texts=_texts(chance, chosen, 2), place=number + 1))
        for n, after in enumerate(places)
    )
    return Thread(
        name=str(number), session=session, texts=_texts(chance, chosen, chosen.turns), place=number, subs=subs
    )


def _texts(chance: random.Random, chosen: argparse.Namespace, turns: int) -> tuple[str, ...]:
    return tuple(f"{prose(chance, chosen.own)} {ask(chance)}" for _ in range(turns))


def body(trace: Trace, messages: Sequence[Body], version: str, mark: str, answer: int) -> Body:
    """A request as such a client makes it: a billing line, whose `cch` never repeats, then what never changes."""
    billing = f"x-anthropic-billing-header: cc_version=2.1.0.{version}; cc_entrypoint=cli; cch={mark};"
    if trace.api == CHAT:
        return chat([{"role": "system", "content": f"{billing}\n{trace.system}"}, *messages], answer)
    system = [{"type": "text", "text": billing}, {"type": "text", "text": trace.system}]
    return {
        "model": MODEL,
        "system": system,
        "messages": [*messages],
        "max_tokens": answer,
        "temperature": 0,
    } | _tools()


def _tools() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    return {"tools": [{"name": name, "description": f"{name} a file.", "input_schema": schema} for name in TOOLS]}


async def live(doors: Doors, trace: Trace, thread: Thread, chosen: argparse.Namespace) -> list[Asked]:
    """A thread's turns and those of its sub-agents, which run beside it."""
    chance = random.Random(f"{chosen.seed}/{thread.name}")
    version = f"{chance.getrandbits(12):03x}"  # the client makes it from the thread's first words
    messages: list[Body] = []
    asked: list[Asked] = []
    headers = {"x-client": thread.name} | ({"x-claude-code-session-id": thread.session} if trace.headers else {})
    async with asyncio.TaskGroup() as tasks:
        below = []
        for number, text in enumerate(thread.texts):
            below += [tasks.create_task(live(doors, trace, sub, chosen)) for sub in _due(thread, number)]
            await asyncio.sleep(chance.uniform(*chosen.thinks))
            mark = f"{chance.getrandbits(20):05x}"
            request = body(trace, [*messages, _said("user", text)], version, mark, chosen.answer)
            turn = await doors.turn(thread.place, trace.api, request, headers)
            asked.append(Asked(turn=turn, had=max((one.turn.prompt for one in asked), default=0)))
            if turn.served:
                messages += [_said("user", text), _said("assistant", turn.text or ".")]
    return asked + [one for task in below for one in task.result()]


def _due(thread: Thread, number: int) -> Iterator[Thread]:
    return (sub for after, sub in thread.subs if after == number)


def _said(role: str, text: str) -> Body:
    return {"role": role, "content": text}


async def live_all(site: Site, trace: Trace, chosen: argparse.Namespace) -> list[Asked]:
    async with site.doors() as doors, asyncio.TaskGroup() as tasks:
        lives = [tasks.create_task(live(doors, trace, thread, chosen)) for thread in trace.threads]
    return [one for task in lives for one in task.result()]


def found_share(name: str, asked: Sequence[Asked]) -> float:
    """Share of later turns that came to where their conversation was: as slotproxy says; by hand always."""
    later = [one.turn for one in asked if one.had]
    if name == ORACLE:
        return 1.0 if later else float("nan")
    return ratio(sum(turn.affinity in WARM for turn in later), len(later))


def warm_share(asked: Sequence[Asked]) -> float:
    """Share of later turns of which the engine had at least half of the turn before, as it says itself."""
    later = [one for one in asked if one.had]
    return ratio(sum(one.turn.cached >= one.had / 2 for one in later), len(later))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=3, help="at once (3)")
    parser.add_argument("--turns", type=int, default=6, help="of each agent (6)")
    parser.add_argument("--subs", type=int, default=2, help="sub-agents of each agent, of two turns (2)")
    parser.add_argument("--system", type=int, default=8192, help="bytes of the shared system prompt, about (8192)")
    parser.add_argument("--own", type=int, default=40, help="tokens that each turn adds, about (40)")
    parser.add_argument("--answer", type=int, default=16, help="tokens, at most (16)")
    parser.add_argument("--thinks", type=float, nargs=2, default=[0.5, 2.0], help="seconds between turns (0.5 2)")
    parser.add_argument("--api", choices=(MESSAGES, CHAT), default=MESSAGES, help="where requests go")
    parser.add_argument("--anonymous", action="store_true", help="no header names the session")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="who is measured")
    parser.add_argument("--ctx", type=int, default=4096, help="context of an engine (4096)")


def run(chosen: argparse.Namespace, folder: Path, say: Say) -> list[Report]:
    """Raises `NotStarted`, `Missing`."""
    place = folder / "claude"
    place.mkdir()
    conditions = Conditions(folder=place, ctx=chosen.ctx, options=tuple(chosen.option))
    found: dict[str, list[Asked]] = {}
    for name in chosen.rivals:
        say(f"claude: {name}")
        with sites.site(name, conditions) as site:
            found[name] = asyncio.run(live_all(site, trace(chosen.seed, chosen), chosen))
    return [
        Report(
            title=f"{chosen.agents} agents of {chosen.turns} turns, {chosen.subs} sub-agents each, at {chosen.api}",
            header=HEADER,
            rows=[_row(name, asked) for name, asked in found.items()],
            promises=_promises(found),
            figures={name: [{**told(one.turn), "had": one.had} for one in asked] for name, asked in found.items()},
        )
    ]


def _row(name: str, asked: Sequence[Asked]) -> list[str]:
    turns, later = [one.turn for one in asked], [one.turn.first for one in asked if one.had]
    shares = [f"{found_share(name, asked):.0%}" if name != HAPROXY else "", f"{warm_share(asked):.0%}"]
    tokens = [f"{sum(turn.cached for turn in turns)}", f"{sum(turn.computed for turn in turns)}"]
    times = [f"{percentile(later, 50):.2f}", f"{mean(later):.2f}"]
    return [name, str(len(turns)), *shares, *tokens, *times, str(sum(not turn.served for turn in turns))]


def _promises(found: dict[str, list[Asked]]) -> list[Promise]:
    if not {SLOTPROXY, ORACLE} <= set(found):
        return []
    ours, oracle = found[SLOTPROXY], found[ORACLE]
    shares = {
        "turns that found what they had, of pinned by hand": ratio(
            found_share(SLOTPROXY, ours), found_share(ORACLE, oracle)
        ),
        "turns whose engine had most of it, of pinned by hand": ratio(warm_share(ours), warm_share(oracle)),
        "prompt tokens cached, of pinned by hand": ratio(_cached(ours), _cached(oracle)),
    }
    return [Promise(what=what, found=share, bound=0.95, least=True) for what, share in shares.items()]


def _cached(asked: Sequence[Asked]) -> float:
    """Share of the prompts."""
    return ratio(sum(one.turn.cached for one in asked), sum(one.turn.prompt for one in asked))
