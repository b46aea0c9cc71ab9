"""`chaos`: random turns while engines crash, restart, and the store is spoiled: does any go on with another's KV?

Every engine computes one token at a time, which is slow, but then rounding does not depend on what was cached: the log
probabilities of two engines that have read the same text are the same. With usual batches this model's differ by 0.1 to
0.3 between a cached and an uncached prompt on one and the same engine, and the promised 0.1 could not be judged.
"""

import argparse
import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conversations import likeness, sites
from tests.conversations.chat import told
from tests.conversations.dialogues import ask, prose
from tests.conversations.likeness import TOLERANCE, Top
from tests.conversations.mischief import USUAL, Disk, Fault, Mischief, disk
from tests.conversations.report import Promise, Report, percentile
from tests.conversations.sites import SLOTPROXY, Conditions, Proxy
from tests.conversations.talk import CHAT, Body, Client, Turn, chat

KEYS = ("first-key", "second-key")
TRIES = 20  # of one turn, which a client asks again where it was refused or lost
AGAIN = 1.0  # seconds between them
SETTLED_WITHIN = 120.0  # seconds from the last turn until every slot must be there
LOOK = {"logprobs": True, "top_logprobs": 5}
Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Conversation:
    """Half of them name a session, and the two keys use the same names; a session outlives its conversation."""

    number: int
    chance: random.Random
    messages: list[Body] = field(default_factory=list)
    prompt: int = 0  # tokens of the last turn

    @property
    def headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {KEYS[self.number % len(KEYS)]}"}
        session = self.number // len(KEYS)
        return key | ({"x-session-id": f"session-{session}"} if session % 2 else {})

    def next(self, opening: int, room: int) -> list[Body]:
        """The messages of the next turn; a conversation that has no room left begins anew."""
        if self.prompt > room or self.chance.random() < 0.03:
            self.messages, self.prompt = [], 0
        text = ask(self.chance) if self.messages else f"{prose(self.chance, opening)} {ask(self.chance)}"
        return [*self.messages, {"role": "user", "content": text}]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What has become of all turns."""

    turns: list[Turn] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    tops: list[tuple[int, Top]] = field(default_factory=list)  # of the engine that nothing was done to
    wrong: list[str] = field(default_factory=list)
    again: Counter[int] = field(default_factory=Counter)  # statuses of turns that had to be asked again
    given_up: int = 0
    lost: int = 0  # slots
    done: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)


class Run:
    """The clients and the engine that nothing is done to."""

    def __init__(self, chosen: argparse.Namespace, client: Client, reference: Client, mischief: Mischief, store: Disk):
        self.outcome = Outcome()
        self._chosen, self._client, self._reference = chosen, client, reference
        self._mischief, self._store = mischief, store
        self._chance = random.Random(f"chaos/{chosen.seed}")
        self._left = chosen.turns

    async def all(self) -> Outcome:
        mine: list[list[Conversation]] = [[] for _ in range(self._chosen.clients)]
        for number in range(self._chosen.conversations):
            chance = random.Random(f"chaos/{self._chosen.seed}/{number}")
            mine[number % len(mine)].append(Conversation(number=number, chance=chance))
        async with asyncio.TaskGroup() as tasks:
            for conversations in filter(None, mine):
                tasks.create_task(self._work(conversations))
        self._store.empty()
        self.outcome.lost = await self._settle()
        self.outcome.done, self.outcome.missed = self._mischief.done, self._mischief.missed
        return self.outcome

    async def _work(self, conversations: list[Conversation]) -> None:
        while self._left > 0:
            self._left -= 1
            await self._misbehave()
            await self._turn(self._chance.choice(conversations))

    async def _misbehave(self) -> None:
        if self._store.full and self._chance.random() < 0.2:
            self._store.empty()
        if self._chance.random() < 1 / self._chosen.every:
            await self._mischief.inject(Fault[self._chance.choice(self._chosen.faults)])

    async def _turn(self, one: Conversation) -> None:
        messages = one.next(self._chosen.opening, self._chosen.ctx - 128)
        turn = await self._asked(chat(messages, self._chosen.answer, **LOOK), one.headers)
        if not turn.served:
            self.outcome.given_up += 1
            return
        one.messages, one.prompt = [*messages, {"role": "assistant", "content": turn.text}], turn.prompt
        self.outcome.turns.append(turn)
        await self._judge(one, messages, turn)

    async def _asked(self, body: Body, headers: dict[str, str]) -> Turn:
        turn = await self._client.turn(CHAT, body, headers)
        for _ in range(TRIES):
            if turn.served:
                break
            self.outcome.again[turn.status] += 1
            await asyncio.sleep(AGAIN)
            await self._mischief.bring_back()
            turn = await self._client.turn(CHAT, body, headers)
        return turn

    async def _judge(self, one: Conversation, messages: list[Body], turn: Turn) -> None:
        """A dedicated engine's word on the same messages; where the two differ, once more without its cache."""
        right = await self._reference.turn(CHAT, chat(messages, 1, **LOOK))
        found = likeness.distance(turn.top, right.top)
        if found > TOLERANCE:
            cold = await self._reference.turn(CHAT, chat(messages, 1, cache_prompt=False, **LOOK))
            found = min(found, likeness.distance(turn.top, cold.top))
        self.outcome.tops.append((one.number, right.top))
        self.outcome.distances.append(found)
        if found > TOLERANCE:
            where = f"instance {turn.instance}, affinity {turn.affinity}, {turn.cached} of {turn.prompt} tokens cached"
            self.outcome.wrong.append(f"Conversation {one.number} is {found:.3f} off at {where}.")

    async def _settle(self) -> int:
        """Slots that are not ready and free although nobody asks and nothing is done any more."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLED_WITHIN
        while True:
            await self._mischief.bring_back()
            slots = await self._mischief.slots()
            lost = sum(slot["state"] != "ready" or bool(slot["is_processing"]) for slot in slots)
            if not lost or loop.time() > until:
                return lost + max(0, sites.INSTANCES - len(slots))
            await asyncio.sleep(0.2)


async def live(chosen: argparse.Namespace, proxy: Proxy, reference: int, store: Disk) -> Outcome:
    async with Client.at(proxy.port) as client, Client.at(reference) as right:
        mischief = Mischief(proxy, client, store, random.Random(f"mischief/{chosen.seed}"))
        return await Run(chosen, client, right, mischief, store).all()


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=1000, help="of all conversations together (1000)")
    parser.add_argument("--conversations", type=int, default=8, help="at once (8)")
    parser.add_argument("--clients", type=int, default=4, help="that take turns at the same time (4)")
    parser.add_argument("--every", type=float, default=6.0, help="turns from one fault to the next, on average (6)")
    names = [fault.name for fault in Fault]
    usual = [fault.name for fault in USUAL]
    parser.add_argument("--faults", nargs="+", choices=names, default=usual, help="which (all but SCRIBBLE)")
    parser.add_argument("--opening", type=int, default=60, help="tokens of a first turn, about (60)")
    parser.add_argument("--answer", type=int, default=6, help="tokens of an answer, at most (6)")
    parser.add_argument("--store", default="kv-store", help="the store's folder in the state directory (kv-store)")
    parser.add_argument("--disk", type=int, default=64, help="MiB of the store's disk, where one may be mounted (64)")
    parser.add_argument("--batch", type=int, default=1, help="tokens that engines compute at once (1)")
    parser.add_argument("--ctx", type=int, default=1024, help="context of an engine (1024)")


def run(chosen: argparse.Namespace, folder: Path, say: Say) -> list[Report]:
    """Raises `NotStarted`, `Missing`, aiohttp.ClientError."""
    place = folder / "chaos"
    place.mkdir()
    keys = tuple(word for key in KEYS for word in ("--api-key", key))
    batch = ("--ubatch-size", str(chosen.batch))
    options = (*keys, *chosen.option)
    conditions = Conditions(folder=place, ctx=chosen.ctx, options=options, engine=batch, key=KEYS[0])
    say(f"chaos: {chosen.turns} turns")
    with (
        disk(place / SLOTPROXY / "state" / chosen.store, chosen.disk << 20) as store,
        sites.engine(place, chosen.ctx, "--cache-ram", "512", *batch) as reference,
        sites.slotproxy(conditions, SLOTPROXY) as proxy,
    ):
        outcome = asyncio.run(live(chosen, proxy, reference, store))
    return [_report(outcome, chosen, store)]


def _report(outcome: Outcome, chosen: argparse.Namespace, store: Disk) -> Report:
    words = Counter(turn.affinity for turn in outcome.turns)
    rows = [
        ["turns", str(len(outcome.turns))],
        ["affinity", _counts(words)],
        ["prompt tokens cached, computed", f"{sum(t.cached for t in outcome.turns)}, {_computed(outcome)}"],
        ["distance of log probabilities p50, p99, largest", _distances(outcome.distances)],
        ["neighbours of other conversations that it tells apart", f"{likeness.told_apart(outcome.tops):.1%}"],
        ["turns asked again, by status (0: lost)", _counts(outcome.again)],
        ["faults", _counts(outcome.done)],
        ["faults that found nothing to hit", _counts(outcome.missed)],
        ["the store's disk", "can be filled" if store.small else "is the machine's: made unwritable, where not root"],
    ]
    promises = [
        Promise(what="turns that went on with another's KV", found=len(outcome.wrong), bound=0, unit=""),
        Promise(what="slots lost", found=outcome.lost, bound=0, unit=""),
        Promise(what="turns given up", found=outcome.given_up, bound=0, unit=""),
    ]
    return Report(
        title=f"{chosen.turns} random turns of {chosen.conversations} conversations, seed {chosen.seed}",
        header=["", "found"],
        rows=rows,
        promises=promises,
        notes=outcome.wrong[:20],
        figures={"distances": outcome.distances, "turns": [told(turn) for turn in outcome.turns]},
    )


def _computed(outcome: Outcome) -> int:
    return sum(turn.computed for turn in outcome.turns)


def _counts(found: "Counter[str] | Counter[int]") -> str:
    return ", ".join(f"{what} {count}" for what, count in found.most_common()) or "none"


def _distances(found: list[float]) -> str:
    return ", ".join(f"{percentile(found, percent):.4f}" for percent in (50, 99, 100)) if found else str(math.nan)
