"""Where a conversation is continued at the least expense. Pure.

For each free slot the policy counts the seconds until the first token: prompt tokens that nobody has computed there,
reading a saved conversation into the engine, and what it costs to bring back the conversation that is displaced. It
waits for an engine that is busy only if that is expected to be cheaper than the best free slot, and never for longer.
What it expects comes from what the engines said of the answers before.
"""

import enum
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from slotproxy.instances.conversations.figures import LEAST, Figures
from slotproxy.instances.conversations.holdings import Held, Holdings, Home
from slotproxy.instances.conversations.index import Index, Match, Record
from slotproxy.instances.conversations.store import Saved
from slotproxy.instances.slots.claim import Claim, Prefix, common
from slotproxy.instances.slots.routing import Policy, Seat, Wait, busyness, without_overflow

BESIDE, DOUBTFUL = 0.8, 0.2  # of what an engine holds beside its slot, or perhaps holds, so much is counted on
HALF_LIFE = 300.0  # seconds after which a conversation goes on half as likely
LONGEST_DELAY = 0.05  # seconds a client may be delayed so that another's conversation is saved
SMALL_SHARE = 0.05  # of what it is spared by that: so much it may be delayed, too
MARGIN = 0.02  # seconds by which another way has to be better


class Result(enum.Enum):
    """What became of a request's conversation."""

    HIT = "hit"  # it went where it is
    HANDED_OVER = "handed-over"  # its engine is another, and read what was saved of it
    SPILL = "spill"  # it is somewhere, and its engine has to compute it again
    COLD = "cold"  # nobody has it


class Way(NamedTuple):
    """To serve a request at one seat."""

    seconds: float  # until its first token, and what others lose by it
    computed: float  # tokens of its prompt
    have: float  # tokens of its prompt that are there then
    restore: Record | None  # is to be read from the store first
    keep: Record | None  # is to be saved before that, or it would be lost
    displaces: bool  # another conversation that lives, and is saved nowhere


class Turn:
    """One request of a conversation, while it holds a slot."""

    __slots__ = ("claim", "ends", "grant", "has_begun", "looks_for_files", "member", "record", "result", "way")

    def __init__(self, claim: Claim, member: Any, record: Record, result: Result, way: Way) -> None:
        self.claim = claim
        self.member = member
        self.record = record
        self.result = result
        self.way = way
        self.has_begun = False  # the engine has begun to answer: it has all of the prompt
        self.looks_for_files = False  # its engine may find what others have written of it
        self.grant = 0  # its number, once the pool has given it one
        self.ends = 0.0  # when its answer is expected to be over

    @property
    def restore(self) -> Record | None:
        """What is to be read from the store before it is sent."""
        return self.way.restore

    @property
    def is_to_be_prepared(self) -> bool:
        """Whether something is to be done to its engine before it is sent."""
        return self.way.restore is not None or self.looks_for_files


class _There(NamedTuple):
    """What an engine has of a prompt."""

    held: Held
    tokens: float
    continues: bool


class _Look:
    """All that is known of one prompt, found once."""

    __slots__ = ("claim", "home", "matches", "stored", "there", "tokens")

    def __init__(self, claim: Claim, matches: Iterable[Match], tokens: float) -> None:
        self.claim = claim
        self.matches = {match.record: match for match in matches}
        self.tokens = tokens  # of the whole prompt
        self.there: dict[Any, list[_There]] = {}  # by engine
        self.home: set[Any] = set()  # engines that have the latest of its session
        self.stored: dict[Hashable, tuple[Record, float]] = {}  # by build: whose has most, and tokens


class Affinity:
    """What is known of conversations; a `routing.ClaimPolicy`."""

    def __init__(self, base: Policy, *, shares: bool = True, waits: bool = True) -> None:
        """`base` decides where this has nothing to say. `shares`: what two clients have sent may be used by any."""
        self.base = base
        self.waits = waits
        self.figures = Figures()
        self.index = Index(shares=shares)
        self.holdings = Holdings(self.index)
        self._looked: _Look | None = None  # the latest: a claim is granted as a rule right after it was weighed

    # where to

    def __call__(self, seats: Sequence[Seat], claim: Claim, now: float) -> Seat | Wait:
        look = self._looked = self._look(claim)
        free = without_overflow([seat for seat in seats if seat.leased < seat.slots])
        if not (look.matches or look.home or any(seat.warmth for seat in free)):
            return self.base(free)
        ways = [(self._way(seat, look, now), seat.member not in look.home, seat) for seat in free]
        best, _, seat = min(ways, key=_preference)
        if self.waits and look.matches:
            for busy in seats:
                if busy.leased < busy.slots or busy.overflow or not self._may_have(busy, look):
                    continue
                patience = best.seconds - self._seconds_there(busy, look)
                if patience > max(MARGIN, self._wait(busy, now)):
                    return Wait(busy, now + patience)
        return seat

    def begun(self, seat: Seat, claim: Claim, now: float) -> Turn:
        """The claim is being granted a slot there: what is to be done before it is sent."""
        look = self._looked if self._looked is not None and self._looked.claim is claim else self._look(claim)
        self._looked = None
        way = self._way(seat, look, now)
        turn = Turn(claim, seat.member, self.index.note(claim, now), self._result(way, look), way)
        home = self.holdings.home(seat.member)
        turn.looks_for_files = home.finds_files and turn.result is Result.SPILL
        self.sent(turn, now)
        home.turns.append(turn)
        self.holdings.make_room()
        return turn

    def _look(self, claim: Claim) -> _Look:
        look = _Look(claim, self.index.matches(claim), claim.prefix.size / self.figures.text.value)
        if (latest := self.index.latest(claim)) is not None:
            look.home.update(member for member, _ in self.holdings.places(latest))
        for match in look.matches.values():
            for member, held in self.holdings.places(match.record):
                tokens = self._alike(claim, match, held.prefix, held.tokens)
                if tokens:
                    look.there.setdefault(member, []).append(_There(held, tokens, match.continues))
            if (saved := self.holdings.saved(match.record)) is not None:
                tokens = self._alike(claim, match, saved.prefix, saved.tokens)
                if tokens > look.stored.get(saved.build, (None, 0.0))[1]:
                    look.stored[saved.build] = match.record, tokens
        return look

    def _alike(self, claim: Claim, match: Match, prefix: Prefix, tokens: int) -> float:
        """Tokens of the prompt that are in what was computed of `prefix`, of which there are `tokens`."""
        alike = min(claim.prefix.in_common(prefix), match.size) / self.figures.text.value
        if match.continues:
            alike = max(alike, self.figures.beyond.value * self._beyond(claim.prefix, prefix))
        return min(tokens, alike)

    def _beyond(self, one: Prefix, other: Prefix) -> float:
        """Tokens that two turns of a conversation have in common if what comes before its first message does not count:
        a line there may change with every turn, and the engine leave it out.
        """
        turns = common(one.turn_numbers, other.turn_numbers)
        if not turns:
            return 0.0
        size = one.size - one.turn_ends[-1] + one.turn_ends[turns - 1]
        return 0.0 if one.in_common(other) >= size else size / self.figures.text.value

    def _way(self, seat: Seat, look: _Look, now: float) -> Way:
        home = self.holdings.home(seat.member)
        there, have = self._have(seat, home, look)
        first = home.held[0] if home.held and seat.last_grant == home.grant else None  # else others ran there since
        goes_on = there is not None and there.continues
        stays = first is None or (goes_on and there is not None and there.held is first)
        lost = 0.0 if first is None or stays else self._loss(first, look, now)
        displaces = lost > 0.0 and not goes_on and first is not None and not self.holdings.is_saved(first)
        seconds = self.figures.computing(look.tokens - have) + lost
        way = Way(seconds, look.tokens - have, have, None, None, displaces)
        return self._by_store(home, first, look, way) or way

    def _by_store(self, home: Home, first: Held | None, look: _Look, direct: Way) -> Way | None:
        """The better way by what was saved; None: there is none."""
        if home.build is None or home.build not in look.stored:
            return None
        record, stored = look.stored[home.build]
        if stored < direct.have + LEAST:
            return None
        saved, figures = self.holdings.saved(record), self.figures
        seconds = figures.computing(look.tokens - stored) + figures.read.value * (0 if saved is None else saved.size)
        keep: Record | None = None
        if first is not None and first.record is not record and self._has_to_be_kept(first):
            cost = figures.saving(first.tokens)
            if cost > max(LONGEST_DELAY, SMALL_SHARE * figures.computing(stored - direct.have)):
                return None
            keep, seconds = first.record, seconds + cost
        if seconds + MARGIN > direct.seconds:
            return None
        return Way(seconds, look.tokens - stored, stored, record, keep, displaces=False)

    def _has_to_be_kept(self, held: Held) -> bool:
        holdings = self.holdings
        return held.tokens >= LEAST and holdings.is_wanted(held) and not holdings.is_saved(held)

    def _have(self, seat: Seat, home: Home, look: _Look) -> tuple[_There | None, float]:
        """What the engine is believed to have of the prompt, and on how many tokens of it can be counted."""
        best: _There | None = None
        most = 0.0
        for there in look.there.get(seat.member, ()):
            position = home.held.index(there.held)
            if position < seat.slots and seat.last_grant == home.grant:
                trust = 1.0
            else:
                trust = BESIDE if position < max(home.depth, seat.slots) else DOUBTFUL
            if trust * there.tokens > most:
                best, most = there, trust * there.tokens
        return best, most

    def _loss(self, held: Held, look: _Look, now: float) -> float:
        """Seconds that the conversation loses when another takes its place, as likely as it is that it goes on."""
        if held.tokens < LEAST or not self.holdings.is_wanted(held):
            return 0.0
        likely = float(0.5 ** (max(0.0, now - held.record.used) / HALF_LIFE))
        saved = self.holdings.saved(held.record)
        if saved is not None and self.holdings.is_saved(held):
            return likely * self.figures.read.value * saved.size
        match = look.matches.get(held.record)
        in_common = 0.0 if match is None else match.size / self.figures.text.value
        return likely * self.figures.computing(held.tokens - in_common)

    def _may_have(self, seat: Seat, look: _Look) -> bool:
        """Whether it has something of the prompt, or will once it has done what it is doing."""
        return seat.member in look.there or any(
            turn.record in look.matches for turn in self.holdings.home(seat.member).turns
        )

    def _seconds_there(self, seat: Seat, look: _Look) -> float:
        """Until the first token, once the seat is free."""
        home = self.holdings.home(seat.member)
        _, have = self._have(seat, home, look)
        for turn in home.turns:
            match = look.matches.get(turn.record)
            if match is not None:
                have = max(have, self._alike(look.claim, match, turn.claim.prefix, turn.record.tokens))
        return self.figures.computing(look.tokens - have)

    def _wait(self, seat: Seat, now: float) -> float:
        """Seconds until a slot of a busy seat is expected to be free for whoever comes now."""
        typical = self.figures.decode.value + self.figures.computing(LEAST)
        turns = self.holdings.home(seat.member).turns
        left = min((max(turn.ends - now, (now - turn.ends) / 4) for turn in turns), default=typical)
        return left + seat.awaited * typical / seat.slots

    def _result(self, way: Way, look: _Look) -> Result:
        if way.restore is not None:
            return Result.HANDED_OVER
        known = max((there.tokens for one in look.there.values() for there in one), default=0.0)
        known = max([known, *(tokens for _, tokens in look.stored.values())])
        if known < min(LEAST, look.tokens / 2):
            return Result.COLD
        return Result.HIT if way.have >= known / 2 else Result.SPILL

    # what is learned

    def sent(self, turn: Turn, now: float) -> None:
        """What had to be done before is done: it is sent now."""
        turn.ends = now + self.figures.computing(turn.way.computed) + self.figures.decode.value

    def ended(
        self,
        turn: Turn,
        *,
        prompt: int | None,
        completion: int | None,
        cached: int | None,
        prefill: float | None,
        total: float,
        now: float,
    ) -> None:
        """It is over, and its answer was complete: tokens as the engine counted them, seconds until the first token and
        until the end; None: not known.
        """
        record, size = turn.record, turn.claim.prefix.size
        record.used = now
        if prompt is not None:
            answer = completion or 0
            record.tokens = prompt + answer
            computed = _computed(turn, prompt, cached)
            self.figures.answered(
                size=size, prompt=prompt, completion=answer, computed=computed, prefill=prefill, total=total
            )
        if self._leave(turn) and record in self.index:
            if cached is not None:
                self._correct(turn, cached)
            held = Held(record, turn.claim.prefix, record.tokens, is_counted=prompt is not None)
            self.holdings.hold(turn.member, held, turn.grant)

    def failed(self, turn: Turn) -> None:
        """It is over, without a complete answer. Does nothing if it has ended already."""
        record = turn.record
        if not self._leave(turn):
            return
        self.holdings.lose(turn.member, record)
        if turn.has_begun and record in self.index:
            self.holdings.hold(turn.member, Held(record, turn.claim.prefix, record.tokens), turn.grant)

    def _correct(self, turn: Turn, cached: int) -> None:
        """By how much of the prompt the engine really had."""
        held = dict(self.holdings.places(turn.record)).get(turn.member)
        if held is None or turn.restore is not None:
            return
        beyond = self._beyond(turn.claim.prefix, held.prefix)
        expected = min(held.tokens, turn.claim.prefix.in_common(held.prefix) / self.figures.text.value)
        if beyond >= expected + LEAST:
            self.figures.beyond.observe(min(1.0, cached / beyond))
        elif expected >= max(LEAST, held.tokens / 2):  # else it tells little of whether the engine has it
            self.holdings.correct(turn.member, turn.record, had=cached >= expected / 2)

    def _leave(self, turn: Turn) -> bool:
        """Whether the engine is still there, and was working on it."""
        turns = self.holdings.home(turn.member).turns if self.holdings.knows(turn.member) else []
        if turn not in turns:
            return False
        turns.remove(turn)
        return True

    # the store

    def restored(self, turn: Turn, seconds: float) -> None:
        """What was saved is in the engine, and what its slot held before is not."""
        saved = None if turn.restore is None else self.holdings.saved(turn.restore)
        if saved is not None and saved.size:
            self.figures.read.observe(seconds / saved.size)
        self.holdings.lose_first(turn.member)

    def not_restored(self, turn: Turn, *, again: bool) -> None:
        """What was saved was not read, and whatever the slot held is lost. It is forgotten, unless it may be tried
        `again`.
        """
        if turn.restore is not None and not again:
            self.holdings.unsave(turn.restore)
        self.holdings.lose_first(turn.member)
        self.left_as_it_is(turn)

    def left_as_it_is(self, turn: Turn) -> None:
        """Nothing was restored: what the slot holds had to stay, or what was saved is gone."""
        turn.result = Result.SPILL
        turn.way = turn.way._replace(restore=None, have=0.0)

    def to_be_kept(self, member: Any, record: Record) -> Held | None:
        """What the slot of the engine holds, if that is the conversation which is to be kept."""
        home = self.holdings.home(member)
        return home.held[0] if home.held and home.held[0].record is record else None

    def to_be_saved(self, member: Any) -> Held | None:
        """What the slot of an idle engine holds, if it is worth saving and is not saved yet."""
        home = self.holdings.home(member)
        if home.build is None or not home.held:
            return None
        held = home.held[0]
        return held if self._has_to_be_kept(held) and self.figures.is_worth_saving(held.tokens) else None

    def saved(self, held: Held, saved: Saved, seconds: float) -> None:
        """It is in the store now."""
        if saved.tokens and saved.size:
            self.figures.kv.observe(saved.size / saved.tokens)
            self.figures.write.observe(seconds / saved.size)
        self.holdings.save(held.record, saved)

    # engines

    def add(self, member: Any, build: Hashable | None = None, *, finds_files: bool = False) -> None:
        """An engine that holds nothing yet, unless it is known already; `build`: what it can read from the store;
        `finds_files`: it looks for what other engines have written.
        """
        self.holdings.add(member, build, finds_files=finds_files)

    def forget(self, member: Any) -> None:
        """The engine is gone, and all it held."""
        self.holdings.forget(member)

    def warmth(self, member: Any) -> int:
        """Tokens that would be lost if another conversation took the place of the one it holds."""
        if not self.holdings.knows(member):
            return 0
        home = self.holdings.home(member)
        return home.held[0].tokens if home.held and self._has_to_be_kept(home.held[0]) else 0

    def conversations(self, member: Any) -> int:
        """How many the engine is believed to hold."""
        home = self.holdings.home(member)
        return min(len(home.held), home.depth)


def _computed(turn: Turn, prompt: int, cached: int | None) -> int | None:
    """Tokens of the prompt that the engine computed; None: it does not say, and may have had some."""
    if cached is not None:
        return prompt - cached
    return prompt if turn.result is Result.COLD else None


def _preference(way: tuple[Way, bool, Seat]) -> tuple[bool, float, bool, bool, tuple[float, int, int]]:
    cost, elsewhere, seat = way
    return cost.displaces, round(cost.seconds / MARGIN), elsewhere, cost.restore is not None, busyness(seat)
