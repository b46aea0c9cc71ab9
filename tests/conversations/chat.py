"""`chat`: interleaved conversations, real engines, slotproxy beside HAProxy and beside conversations pinned by hand."""

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.conversations import sites
from tests.conversations.dialogues import Script, scripts
from tests.conversations.report import Promise, Report, mean, percentile, ratio
from tests.conversations.sites import HAPROXY, ORACLE, SLOTPROXY, Conditions, Doors
from tests.conversations.talk import CHAT, Body, Client, Turn, chat

DEDICATED = "dedicated"
RIVALS = (SLOTPROXY, HAPROXY, ORACLE)
HEADER = [
    *("", "later turns TTFT p50 s", "mean", "first turns p50 s", "mean"),
    *("prompt tokens computed", "of dedicated", "refused", "affinity of later turns"),
]
LOW = 2  # conversations that leave an engine idle most of the time
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Every turn of every conversation; refused ones too, which the conversation goes on without."""

    turns: Sequence[Sequence[Turn]]

    @property
    def first(self) -> list[float]:
        return [turns[0].first for turns in self.turns]

    @property
    def later(self) -> list[float]:
        return [turn.first for turns in self.turns for turn in turns[1:]]

    @property
    def computed(self) -> int:
        return sum(turn.computed for turns in self.turns for turn in turns)

    @property
    def refused(self) -> int:
        return sum(not turn.served for turns in self.turns for turn in turns)

    @property
    def affinity(self) -> dict[str, int]:
        """How many of the later turns found what."""
        found = [turn.affinity for turns in self.turns for turn in turns[1:] if turn.served]
        return {word: found.count(word) for word in sorted(set(found))}


async def hold(doors: Doors, script: Script, who: int, *, hurry: bool = False, fresh: bool = False) -> list[Turn]:
    """One conversation, with the engine's own answers as its history.

    `hurry`: without thinking; `fresh`: its first turn takes nothing from a cache.
    """
    messages: list[Body] = []
    turns: list[Turn] = []
    for text, thinks, length in zip((script.opening, *script.asks), script.thinks, script.lengths, strict=True):
        await asyncio.sleep(0 if hurry else thinks)
        asked = [*messages, {"role": "user", "content": text}]
        more = {"cache_prompt": False} if fresh and not turns else {}
        headers = {"x-client": script.name} | ({"x-session-id": f"session-{script.name}"} if script.named else {})
        turns.append(await doors.turn(who, CHAT, chat(asked, length, **more), headers))
        if turns[-1].served:
            messages = [*asked, {"role": "assistant", "content": turns[-1].text}]
    return turns


async def hold_all(site: sites.Site, said: Sequence[Script]) -> Held:
    """All conversations at once."""
    async with site.doors() as doors, asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(hold(doors, script, who)) for who, script in enumerate(said)]
    return Held(turns=[task.result() for task in held])


async def dedicated(port: int, said: Sequence[Script]) -> Held:
    """The conversations one after the other, each as if its engine had been started for it: what must be computed."""
    async with Client.at(port) as client:
        doors = Doors([client], alone=False)
        return Held(turns=[await hold(doors, script, 0, hurry=True, fresh=True) for script in said])


def measure(conditions: Conditions, said: Sequence[Script], rivals: Sequence[str], say: Say) -> dict[str, Held]:
    """Every rival with fresh engines, one after the other. Raises `NotStarted`, `Missing`."""
    found = {}
    for name in rivals:
        say(f"chat, {len(said)} conversations: {name}")
        with sites.site(name, conditions) as site:
            found[name] = asyncio.run(hold_all(site, said))
    say(f"chat, {len(said)} conversations: {DEDICATED}")
    with sites.engine(conditions.folder, conditions.ctx, "--cache-ram", "0") as port:
        found[DEDICATED] = asyncio.run(dedicated(port, said))
    return found


def row(name: str, held: Held, least: Held) -> list[str]:
    affinity = ", ".join(f"{word} {count}" for word, count in held.affinity.items())
    times = [percentile(held.later, 50), mean(held.later), percentile(held.first, 50), mean(held.first)]
    tokens = [f"{held.computed}", f"{ratio(held.computed, least.computed):.3f}x"]
    return [name, *(f"{time:.2f}" for time in times), *tokens, str(held.refused), affinity]


def promises(found: Mapping[str, Held]) -> list[Promise]:
    """What the issue of conversations is accepted by."""
    ours, least = found[SLOTPROXY], found[DEDICATED]
    said = [
        Promise(what="prompt tokens computed, of dedicated", found=ratio(ours.computed, least.computed), bound=1.05),
        Promise(what="requests refused", found=ours.refused, bound=0, unit=""),
    ]
    if HAPROXY in found:
        said += _against_haproxy(ours, found[HAPROXY], low=len(ours.turns) <= LOW)
    if ORACLE in found:
        said += _against_oracle(ours, found[ORACLE])
    return said


def _against_haproxy(ours: Held, theirs: Held, *, low: bool) -> list[Promise]:
    middle = ratio(percentile(theirs.later, 50), percentile(ours.later, 50))
    average = ratio(mean(theirs.later), mean(ours.later))
    if low:
        return [Promise(what="HAProxy's mean TTFT of later turns, of ours", found=average, bound=3, least=True)]
    return [
        Promise(what="HAProxy's p50 TTFT of later turns, of ours", found=middle, bound=8, least=True),
        Promise(what="HAProxy's mean TTFT of later turns, of ours", found=average, bound=5, least=True),
    ]


def _against_oracle(ours: Held, oracle: Held) -> list[Promise]:
    middle = ratio(percentile(ours.later, 50), percentile(oracle.later, 50))
    return [
        Promise(what="p50 TTFT of later turns, of pinned by hand", found=middle, bound=1.1),
        Promise(what="mean, of pinned by hand", found=ratio(mean(ours.later), mean(oracle.later)), bound=1.1),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conversations", type=int, nargs="+", default=[6, 12, 2], help="at once, one run for each")
    parser.add_argument("--turns", type=int, default=7, help="short turns after the first (7)")
    parser.add_argument("--opening", type=int, default=700, help="tokens of the first turn, about (700)")
    parser.add_argument("--thinks", type=float, nargs=2, default=[1.5, 3.0], help="seconds between turns (1.5 3)")
    parser.add_argument("--answers", type=int, nargs=2, default=[8, 24], help="tokens of an answer, at most (8 24)")
    parser.add_argument("--named", action="store_true", help="conversations name themselves in x-session-id")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="who is measured")
    parser.add_argument("--ctx", type=int, default=2048, help="context of an engine (2048)")


def run(chosen: argparse.Namespace, folder: Path, say: Say) -> list[Report]:
    """A report for each number of conversations. Raises `NotStarted`, `Missing`."""
    return [_one(chosen, count, folder, say) for count in chosen.conversations]


def _one(chosen: argparse.Namespace, count: int, folder: Path, say: Say) -> Report:
    place = folder / f"chat-{count}"
    place.mkdir()
    conditions = Conditions(folder=place, ctx=chosen.ctx, options=tuple(chosen.option))
    said = scripts(chosen.seed, count, chosen.turns, chosen.opening, tuple(chosen.thinks), tuple(chosen.answers))
    said = [replace(script, named=chosen.named) for script in said]
    found = measure(conditions, said, chosen.rivals, say)
    prompt = mean([turns[0].prompt for turns in found[DEDICATED].turns])
    rows = [row(name, held, found[DEDICATED]) for name, held in found.items()]
    return Report(
        title=f"{count} conversations, first turns of {prompt:.0f} tokens, {chosen.turns} short turns, 2 engines",
        header=HEADER,
        rows=rows,
        promises=promises(found) if SLOTPROXY in found else [],
        figures={name: [[told(turn) for turn in turns] for turns in held.turns] for name, held in found.items()},
    )


def told(turn: Turn) -> Mapping[str, object]:
    """A turn for the JSON."""
    plain = asdict(turn) | {"affinity": turn.affinity, "instance": turn.instance, "queued": turn.queued}
    return {key: value for key, value in plain.items() if key not in ("headers", "text", "top")}
