"""Where a conversation is continued at the least expense. Pure.

Each engine holds the KV of the conversation it worked on last, and perhaps of some before it; the store holds those
that were saved. For each free slot the policy counts the seconds until the first token: prompt tokens that nobody has
computed, reading a saved conversation into the engine, and what it costs to bring back the conversation that is
displaced. It waits for an engine that is busy only if that is expected to be cheaper than the best free slot, and never
for longer. What it expects comes from what the engines said of the answers before.
"""

import enum
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from slotproxy.instances.conversations.index import Index, Match, Record, common
from slotproxy.instances.slots.claim import Claim, Prefix
from slotproxy.instances.slots.routing import Policy, Seat, Wait, busyness, without_overflow

MOST_HELD = 32  # conversations that are remembered of one engine
FIRST_DEPTH = 4  # conversations an engine is believed to hold, until it shows that it does not
BESIDE, DOUBTFUL = 0.8, 0.2  # of what an engine holds beside its slots, or perhaps holds, so much is counted on
WORTHWHILE = 64  # tokens below which nothing is gained by knowing where they are
HALF_LIFE = 300.0  # seconds after which a conversation goes on half as likely
LONGEST_DELAY = 0.05  # seconds a client may be delayed so that another's conversation is saved
MARGIN = 0.02  # seconds by which another way has to be better
SMOOTHING = 0.2  # weight of the latest figure
FIRST_PREFILL, FIRST_TOKEN, FIRST_DECODE = 0.01, 0.05, 2.0  # seconds a token, and an answer; until there are figures
FIRST_TEXT = 4.0  # bytes a token, until there are figures


class Result(enum.Enum):
    """What became of a request's conversation."""

    HIT = "hit"  # it went where it is
    HANDED_OVER = "handed-over"  # its engine is another, and read what was saved of it
    SPILL = "spill"  # it is somewhere, and its engine has to compute it again
    COLD = "cold"  # nobody has it


class Saved(NamedTuple):
    """A conversation in the store, as of one of its turns."""

    name: str  # of its file
    build: Hashable  # engines of the same can continue it
    prefix: Prefix
    tokens: int
    size: int  # bytes


class Held:
    """What an engine has of a conversation."""

    __slots__ = ("prefix", "record", "tokens")

    def __init__(self, record: Record, prefix: Prefix, tokens: int) -> None:
        self.record = record
        self.prefix = prefix  # of the prompt of its last turn there
        self.tokens = tokens


class Way(NamedTuple):
    """To serve a request at one seat."""

    seconds: float  # until its first token, and what others lose by it
    computed: float  # tokens of its prompt
    have: float  # tokens of its prompt that are there already
    restore: Record | None  # is to be read from the store first
    keep: Record | None  # is to be saved before that, or it would be lost
    displaces: bool  # another conversation that lives, and is saved nowhere


class Turn:
    """One request of a conversation, while it holds a slot."""

    __slots__ = ("claim", "ends", "grant", "has_begun", "member", "record", "result", "way")

    def __init__(self, claim: Claim, member: Any, record: Record, result: Result, way: Way) -> None:
        self.claim = claim
        self.member = member
        self.record = record
        self.result = result
        self.way = way
        self.has_begun = False  # the engine has begun to answer: it has all of the prompt
        self.grant = 0  # its number, once the pool has given it one
        self.ends = 0.0  # when its answer is expected to be over

    @property
    def restore(self) -> Record | None:
        """What is to be read from the store before it is sent."""
        return self.way.restore


class Home:
    """One engine, as far as conversations go."""

    __slots__ = ("build", "depth", "grant", "held", "slots", "turns")

    def __init__(self, build: Hashable | None) -> None:
        self.build = build  # None: nothing can be saved or read there
        self.held: list[Held] = []  # the latest first
        self.depth = FIRST_DEPTH
        self.grant = 0  # number of the grant for the latest
        self.turns: list[Turn] = []  # in work


class Rate:
    """A figure that is measured again and again."""

    __slots__ = ("is_measured", "value")

    def __init__(self, first: float) -> None:
        self.value = first
        self.is_measured = False

    def observe(self, value: float) -> None:
        self.value += (SMOOTHING if self.is_measured else 1.0) * (value - self.value)
        self.is_measured = True


class Affinity:
    """What is known of conversations; a `routing.ClaimPolicy`."""

    def __init__(self, base: Policy, *, shares: bool = True, waits: bool = True) -> None:
        """`base` decides where this has nothing to say."""
        self.base = base
        self.waits = waits
        self.index = Index(shares=shares)
        self.prefill = Rate(FIRST_PREFILL)  # seconds a prompt token that is not cached
        self.decode = Rate(FIRST_DECODE)  # seconds from the first token to the end of an answer
        self.token = Rate(FIRST_TOKEN)  # seconds a token of an answer
        self.text = Rate(FIRST_TEXT)  # bytes of text a prompt token
        self.kv = Rate(0.0)  # bytes a token in the store
        self.write, self.read = Rate(1e-8), Rate(5e-9)  # seconds a byte of the store
        self._homes: dict[Any, Home] = {}
        self._places: dict[Record, dict[Any, Held]] = {}
        self._saved: dict[Record, Saved] = {}

    # where to

    def __call__(self, seats: Sequence[Seat], claim: Claim, now: float) -> Seat | Wait:
        matches = self.index.matches(claim)
        free = without_overflow([seat for seat in seats if seat.leased < seat.slots])
        if not matches and not any(seat.warmth for seat in free):
            return self.base(free)
        size = self._tokens(claim)
        ways = [(self._way(seat, claim, matches, size, now), seat) for seat in free]
        best = min(ways, key=_preference)
        if self.waits:
            busy = [seat for seat in seats if seat.leased >= seat.slots and not seat.overflow]
            for seat in busy:
                patience = best[0].seconds - self._seconds_there(seat, claim, matches, size)
                if patience > max(MARGIN, self._wait(seat, now)):
                    return Wait(seat, now + patience)
        return best[1]

    def begun(self, seat: Seat, claim: Claim, now: float) -> Turn:
        """The claim is being granted a slot there: what is to be done before it is sent."""
        matches = self.index.matches(claim)
        size = self._tokens(claim)
        way = self._way(seat, claim, matches, size, now)
        result = self._result(way, claim, matches, size)
        record = self.index.note(claim, now)
        turn = Turn(claim, seat.member, record, result, way)
        self.sent(turn, now)
        self._home(seat.member).turns.append(turn)
        self._make_room()
        return turn

    def _tokens(self, claim: Claim) -> float:
        return claim.prefix.size / self.text.value

    def _way(self, seat: Seat, claim: Claim, matches: Sequence[Match], size: float, now: float) -> Way:
        home = self._home(seat.member)
        have, position, goes_on = self._have(seat, home, claim, matches)
        first = home.held[0] if home.held else None
        is_there = first is not None and seat.last_grant == home.grant  # nothing else ran there since
        stays = not is_there or (position == 0 and goes_on)
        lost = 0.0 if first is None or stays else self._loss(first, matches, now)
        displaces = lost > 0.0 and not goes_on and first is not None and not self._is_saved(first)
        way = Way(self._compute(size - have) + lost, size - have, have, None, None, displaces)
        saved, stored = self._stored(home, claim, matches)
        if saved is None or stored < have + WORTHWHILE:
            return way
        seconds = self._compute(size - stored) + self.read.value * self._saved[saved].size
        keep: Record | None = None
        if first is not None and is_there and first.record is not saved and not self._is_saved(first):
            cost = self.saving(first.tokens)
            if first.tokens >= WORTHWHILE and first.record in self.index:
                if cost > LONGEST_DELAY:
                    return way
                keep, seconds = first.record, seconds + cost
        if seconds + MARGIN > way.seconds:
            return way
        return Way(seconds, size - stored, stored, saved, keep, displaces=False)

    def _have(self, seat: Seat, home: Home, claim: Claim, matches: Iterable[Match]) -> tuple[float, int, bool]:
        """Tokens of the prompt that the engine is believed to hold, where among what it holds, and whether in the same
        conversation.
        """
        most, at, goes_on = 0.0, -1, False
        for match in matches:
            held = self._places.get(match.record, {}).get(seat.member)
            if held is None:
                continue
            position = home.held.index(held)
            if position < seat.slots and seat.last_grant == home.grant:
                trust = 1.0
            else:
                trust = BESIDE if position < max(home.depth, seat.slots) else DOUBTFUL
            have = trust * self._alike(claim, match, held.prefix, held.tokens)
            if have > most:
                most, at, goes_on = have, position, match.continues
        return most, at, goes_on

    def _stored(self, home: Home, claim: Claim, matches: Iterable[Match]) -> tuple[Record | None, float]:
        """Whose saved conversation has most of the prompt, and how many tokens."""
        best: Record | None = None
        most = 0.0
        if home.build is None:
            return best, most
        for match in matches:
            saved = self._saved.get(match.record)
            if saved is None or saved.build != home.build:
                continue
            tokens = self._alike(claim, match, saved.prefix, saved.tokens)
            if tokens > most:
                best, most = match.record, tokens
        return best, most

    def _alike(self, claim: Claim, match: Match, prefix: Prefix, tokens: int) -> float:
        """Tokens of the prompt that are in what was computed of `prefix`, of which there are `tokens`."""
        blocks = common(claim.prefix.numbers, prefix.numbers)
        if not blocks:
            return 0.0
        size = min(claim.prefix.ends[blocks - 1], match.size)
        return min(tokens, size / self.text.value)

    def _loss(self, held: Held, matches: Iterable[Match], now: float) -> float:
        """Seconds that the conversation loses when another takes its place, as likely as it is that it goes on."""
        record = held.record
        if record not in self.index or held.tokens < WORTHWHILE:
            return 0.0
        likely = float(0.5 ** (max(0.0, now - record.used) / HALF_LIFE))
        saved = self._saved.get(record)
        if saved is not None and self._is_saved(held):
            return likely * self.read.value * saved.size
        common_to_both = next((match.size / self.text.value for match in matches if match.record is record), 0.0)
        return likely * self._compute(max(0.0, held.tokens - common_to_both))

    def _is_saved(self, held: Held) -> bool:
        saved = self._saved.get(held.record)
        return saved is not None and saved.prefix is held.prefix

    def _compute(self, tokens: float) -> float:
        return max(0.0, tokens) * self.prefill.value

    def saving(self, tokens: float) -> float:
        """Seconds it is expected to take to save so many tokens."""
        return tokens * self.kv.value * self.write.value

    def _seconds_there(self, seat: Seat, claim: Claim, matches: Sequence[Match], size: float) -> float:
        """Until the first token once the seat is free; what it works on now is not what is asked for, as a rule."""
        home = self._home(seat.member)
        have = 0.0
        for turn in home.turns:
            for match in matches:
                if match.record is turn.record:
                    have = max(have, self._alike(claim, match, turn.claim.prefix, turn.record.tokens))
        beside, *_ = self._have(seat, home, claim, matches)
        return self._compute(size - max(have, beside))

    def _wait(self, seat: Seat, now: float) -> float:
        """Seconds until a slot of a busy seat is expected to be free for whoever comes now."""
        turns = self._home(seat.member).turns
        typical = self.decode.value + WORTHWHILE * self.prefill.value
        left = min((max(turn.ends - now, 0.25 * (now - turn.ends)) for turn in turns), default=typical)
        return left + seat.awaited * typical / seat.slots

    def _result(self, way: Way, claim: Claim, matches: Sequence[Match], size: float) -> Result:
        if way.restore is not None:
            return Result.HANDED_OVER
        known = max((self._known(claim, match) for match in matches), default=0.0)
        if known < min(WORTHWHILE, size / 2):
            return Result.COLD
        return Result.HIT if way.have >= known / 2 else Result.SPILL

    def _known(self, claim: Claim, match: Match) -> float:
        """Tokens of the prompt that somebody has by this record."""
        places = [(held.prefix, held.tokens) for held in self._places.get(match.record, {}).values()]
        if (saved := self._saved.get(match.record)) is not None:
            places.append((saved.prefix, saved.tokens))
        return max((self._alike(claim, match, *place) for place in places), default=0.0)

    # what is learned

    def sent(self, turn: Turn, now: float) -> None:
        """What had to be done before is done: it is sent now."""
        turn.ends = now + turn.way.computed * self.prefill.value + self.decode.value

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
        record, home = turn.record, self._leave(turn)
        record.used = now
        if prompt is not None:
            record.tokens = prompt + (completion or 0)
            self._measure(turn, prompt, completion or 0, prompt - (cached or 0), prefill, total)
        if home is None or record not in self.index:
            return
        if cached is not None:
            self._correct(home, turn, cached)
        self._hold(home, Held(record, turn.claim.prefix, record.tokens), turn)

    def _measure(
        self, turn: Turn, prompt: int, completion: int, computed: int, prefill: float | None, total: float
    ) -> None:
        if turn.claim.prefix.size and prompt >= WORTHWHILE:
            self.text.observe(turn.claim.prefix.size / prompt)
        if prefill is not None:
            self.decode.observe(total - prefill)
            if completion > 1:
                self.token.observe((total - prefill) / (completion - 1))
        else:  # no stream: when its first token came can only be guessed
            prefill = max(0.0, total - completion * self.token.value)
        if computed >= max(WORTHWHILE, 2 * completion):
            self.prefill.observe(prefill / computed)

    def failed(self, turn: Turn) -> None:
        """It is over, without a complete answer. Does nothing if it has ended already."""
        home, record = self._leave(turn), turn.record
        if home is None:
            return
        held = self._places.get(record, {}).get(turn.member)
        if held is not None:
            self._lose(home, held)
        if turn.has_begun and record in self.index:
            self._hold(home, Held(record, turn.claim.prefix, record.tokens), turn)

    def _correct(self, home: Home, turn: Turn, cached: int) -> None:
        """The engine had less than it was believed to have, or more."""
        held = self._places.get(turn.record, {}).get(turn.member)
        if held is None or turn.restore is not None:
            return
        blocks = common(turn.claim.prefix.numbers, held.prefix.numbers)
        expected = min(held.tokens, turn.claim.prefix.ends[blocks - 1] / self.text.value) if blocks else 0
        if expected < WORTHWHILE:
            return
        position = home.held.index(held)
        if cached >= expected / 2:
            home.depth = max(home.depth, position + 1)
        else:
            home.depth = max(1, position)
            for lost in home.held[position:]:
                self._lose(home, lost)

    def _hold(self, home: Home, held: Held, turn: Turn) -> None:
        before = self._places.setdefault(held.record, {}).get(turn.member)
        if before is not None:
            home.held.remove(before)
        self._places[held.record][turn.member] = held
        home.held.insert(0, held)
        home.grant = turn.grant
        if len(home.held) > MOST_HELD:
            self._lose(home, home.held[-1])

    def _leave(self, turn: Turn) -> Home | None:
        home = self._homes.get(turn.member)
        if home is not None and turn in home.turns:
            home.turns.remove(turn)
            return home
        return None

    # the store

    def restored(self, turn: Turn, seconds: float) -> None:
        """What was saved is in the engine, and what its slot held before is not."""
        saved = None if turn.restore is None else self._saved.get(turn.restore)
        if saved is not None and saved.size:
            self.read.observe(seconds / saved.size)
        self._lose_first(turn.member)

    def not_restored(self, turn: Turn) -> None:
        """What was saved cannot be read: it is forgotten, and whatever the slot held is lost, too."""
        if turn.restore is not None:
            self._saved.pop(turn.restore, None)
        self._lose_first(turn.member)
        turn.result = Result.SPILL
        turn.way = turn.way._replace(restore=None, have=0.0)

    def to_be_saved(self, member: Any) -> Held | None:
        """What the slot of an idle engine holds, if it is worth saving and is not saved yet."""
        home = self._homes.get(member)
        if home is None or home.build is None or not home.held:
            return None
        held = home.held[0]
        if self._is_saved(held) or held.tokens < WORTHWHILE or held.record not in self.index:
            return None
        worth = self._compute(held.tokens)
        bytes_ = held.tokens * self.kv.value
        return held if worth > 4 * bytes_ * (self.write.value + self.read.value) else None

    def saved(self, held: Held, saved: Saved, seconds: float) -> None:
        """It is in the store now."""
        if saved.tokens and saved.size:
            self.kv.observe(saved.size / saved.tokens)
            self.write.observe(seconds / saved.size)
        if held.record in self.index:
            self._saved[held.record] = saved

    def saved_as(self, record: Record) -> Saved | None:
        """What the store has of it."""
        return self._saved.get(record)

    def discarded(self, name: str) -> None:
        """The store has no such file any longer."""
        for record, saved in list(self._saved.items()):
            if saved.name == name:
                del self._saved[record]

    # engines

    def add(self, member: Any, build: Hashable | None = None) -> None:
        """An engine that holds nothing yet; unless it is known already."""
        home = self._homes.get(member)
        if home is None:
            self._homes[member] = Home(build)
        elif build is not None:
            home.build = build

    def forget(self, member: Any) -> None:
        """The engine is gone, and all it held."""
        home = self._homes.pop(member, None)
        if home is not None:
            for held in list(home.held):
                self._lose(home, held)

    def warmth(self, member: Any) -> int:
        """Tokens that would be lost if another conversation took the place of the one it holds."""
        home = self._homes.get(member)
        if home is None or not home.held:
            return 0
        held = home.held[0]
        return 0 if self._is_saved(held) or held.tokens < WORTHWHILE else held.tokens

    def conversations(self, member: Any) -> int:
        """How many it is believed to hold."""
        home = self._homes.get(member)
        return 0 if home is None else min(len(home.held), home.depth)

    def _home(self, member: Any) -> Home:
        home = self._homes.get(member)
        if home is None:
            home = self._homes[member] = Home(None)
        return home

    def _lose_first(self, member: Any) -> None:
        home = self._homes.get(member)
        if home is not None and home.held:
            self._lose(home, home.held[0])

    def _lose(self, home: Home, held: Held) -> None:
        home.held.remove(held)
        places = self._places.get(held.record)
        if places is None:
            return
        for place in [place for place, what in places.items() if what is held]:
            del places[place]
        if not places:
            del self._places[held.record]

    def _make_room(self) -> None:
        while (record := self.index.overflowing()) is not None:
            self.index.drop(record)
            self._saved.pop(record, None)
            for place in list(self._places.get(record, {})):
                self._lose(self._homes[place], self._places[record][place])


def _preference(way: tuple[Way, Seat]) -> tuple[bool, float, bool, tuple[float, int, int]]:
    cost, seat = way
    return cost.displaces, round(cost.seconds / MARGIN), cost.restore is not None, busyness(seat)
