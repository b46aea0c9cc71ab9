"""Which conversations are known, and how far a prompt goes along with each. Pure.

A record is one conversation as it was last asked. Its prompt is known by the numbers of its blocks (`slots.claim`): two
prompts begin alike exactly as far as their numbers are the same. `Index` finds for a prompt all records that begin like
it, without looking at the others, and forgets the ones that were used longest ago when it has reached its bounds.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slotproxy.instances.slots.claim import NO_PREFIX, Claim, Prefix

MOST_RECORDS = 4096
MOST_BLOCKS = 65_536  # of all records: some 10 MiB
CHANGING = 256  # bytes by which a system prompt changes in length from one turn to the next
GREETING = 256  # bytes of a first message with which many conversations may begin
MOST_MATCHES = 64  # records that are looked at for one prompt


class Record:
    """One conversation. Compared by identity."""

    __slots__ = ("prefix", "principal", "session", "tokens", "used")

    def __init__(self, principal: str, session: str | None, prefix: Prefix, now: float) -> None:
        self.principal = principal
        self.session = session  # what the client says it belongs to; None: it does not say
        self.prefix = prefix  # of the prompt that was sent last
        self.tokens = prefix.size // 4  # of that prompt and its answer, as the engine counted them once it has
        self.used = now

    def __repr__(self) -> str:
        return f"<Record {self.principal!r} {self.session!r}, {self.tokens} tokens>"


class Holders:
    """By the number of a block: the conversations that have it."""

    __slots__ = ("_by_number",)

    def __init__(self) -> None:
        # Most blocks belong to one conversation, and there are many of them: a dict of one each would take ten times
        # the memory.
        self._by_number: dict[int, Record | dict[Record, None]] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def of(self, number: int) -> Sequence[Record]:
        """The latest last; none if nobody has it."""
        found = self._by_number.get(number)
        if found is None:
            return ()
        return (found,) if isinstance(found, Record) else tuple(found)

    def count(self, number: int) -> int:
        found = self._by_number.get(number)
        if found is None:
            return 0
        return 1 if isinstance(found, Record) else len(found)

    def add(self, number: int, record: Record) -> None:
        found = self._by_number.get(number)
        if found is None:
            self._by_number[number] = record
        elif isinstance(found, dict):
            found[record] = None
        elif found is not record:
            self._by_number[number] = {found: None, record: None}

    def remove(self, number: int, record: Record) -> None:
        found = self._by_number.get(number)
        if isinstance(found, dict):
            found.pop(record, None)
            if len(found) == 1:
                (self._by_number[number],) = found
        elif found is record:
            del self._by_number[number]


class Match(NamedTuple):
    """How far a prompt goes along with a record."""

    record: Record
    size: int  # bytes from the beginning that are the same and may be used by whoever asks
    continues: bool  # it is the same conversation


class Index:
    """All records of one proxy."""

    def __init__(self, *, shares: bool = True, records: int = MOST_RECORDS, blocks: int = MOST_BLOCKS) -> None:
        """`shares`: whether what two principals have sent may be used by any."""
        self.shares = shares
        self._most_records, self._most_blocks = records, blocks
        self._records: OrderedDict[Record, None] = OrderedDict()  # the one used longest ago first
        self._sessions: dict[tuple[str, str], Record] = {}  # the latest of each: sub-agents have that of their agent
        self._names: dict[Record, set[tuple[str, str]]] = {}  # the sessions of which a record is the latest
        self._holders = Holders()
        self._turns = Holders()  # the same from the first message of the user on
        self._blocks = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        """The one used longest ago first."""
        return iter(self._records)

    def __contains__(self, record: object) -> bool:
        return record in self._records

    @property
    def blocks(self) -> int:
        """Numbers that are remembered, counted for each record."""
        return self._blocks

    # looking

    def matches(self, claim: Claim) -> list[Match]:
        """Those that begin like the prompt, the longest first, and the one the client names."""
        numbers = claim.prefix.numbers
        found: list[Match] = []
        own = self.conversation(claim)
        seen = set() if own is None else {own}
        if own is not None:
            found.append(Match(own, claim.prefix.in_common(own.prefix), continues=True))
        for depth, holders in self._levels(numbers, self._holders):
            for record in reversed(holders):
                if record in seen:
                    continue
                seen.add(record)
                own_text = claim.principal == record.principal
                size = claim.prefix.ends[depth] if own_text else self._shared(claim, depth)
                if size:
                    found.append(Match(record, size, continues=False))
                if len(found) >= MOST_MATCHES:
                    return _longest_first(found)
        return _longest_first(found)

    def conversation(self, claim: Claim) -> Record | None:
        """The record that the prompt goes on with; where nothing is known of the prompt, the latest of its session.

        None: it begins a new one.
        """
        prefix = claim.prefix
        if not prefix.numbers:
            return self.latest(claim)
        for numbers, holders in ((prefix.numbers, self._holders), (prefix.turn_numbers, self._turns)):
            for depth, records in self._levels(numbers, holders):
                goes_on = [record for record in records if _goes_on(claim, record, depth, holders is self._turns)]
                if goes_on:
                    return max(goes_on, key=lambda record: record.used)
                break  # what matches less is another conversation that began alike
        return None

    def latest(self, claim: Claim) -> Record | None:
        """The conversation of its session that was asked last; None: it names none, or a new one."""
        return None if claim.session is None else self._sessions.get((claim.principal, claim.session))

    def _levels(self, numbers: tuple[int, ...], holders: Holders) -> Iterator[tuple[int, Sequence[Record]]]:
        """The deepest block that any record has, then each above it that more records have."""
        low, high = 0, len(numbers)
        while low < high:  # every block up to the deepest is there
            middle = (low + high) // 2
            if numbers[middle] in holders:
                low = middle + 1
            else:
                high = middle
        depth = low - 1
        while depth >= 0:
            yield depth, holders.of(numbers[depth])
            low, high, count = 0, depth, holders.count(numbers[depth])
            while low < high:  # the nearest above that more of them have
                middle = (low + high) // 2
                if holders.count(numbers[middle]) > count:
                    low = middle + 1
                else:
                    high = middle
            depth = low - 1

    def _shared(self, claim: Claim, depth: int) -> int:
        """Bytes that somebody else's prompt has, and that two principals have sent."""
        if not self.shares:
            return 0
        numbers, ends = claim.prefix.numbers, claim.prefix.ends
        low, high = 0, depth + 1
        while low < high:  # what two have sent, two have sent from the beginning
            middle = (low + high) // 2
            if self._sent_by_two(numbers[middle]):
                low = middle + 1
            else:
                high = middle
        return ends[low - 1] if low else 0

    def _sent_by_two(self, number: int) -> bool:
        first, *others = self._holders.of(number)
        return any(record.principal != first.principal for record in others)

    # learning

    def note(self, claim: Claim, now: float) -> Record:
        """The prompt is being asked: its record, a new one if it begins a conversation."""
        record = self.conversation(claim)
        if record is None:
            record = Record(claim.principal, None if claim.session_is_weak else claim.session, claim.prefix, now)
            self._enter(record)
        elif record.prefix is not claim.prefix:
            self._leave(record)
            record.prefix = claim.prefix
            self._enter(record)
        if claim.session is not None and (not claim.session_is_weak or not claim.prefix.numbers):
            self._call(record, claim.session)
        record.used = now
        self._records[record] = None
        self._records.move_to_end(record)
        return record

    def overflowing(self) -> Record | None:
        """The one to be dropped next, as long as there are too many."""
        if len(self._records) > self._most_records or (self._blocks > self._most_blocks and len(self._records) > 1):
            return next(iter(self._records))
        return None

    def drop(self, record: Record) -> None:
        """Forget it."""
        if record not in self._records:
            return
        del self._records[record]
        self._leave(record)
        for key in self._names.pop(record, ()):
            if self._sessions.get(key) is record:
                del self._sessions[key]

    def _call(self, record: Record, session: str) -> None:
        """It is the latest of that session."""
        key = record.principal, session
        before = self._sessions.get(key)
        if before is not record:
            if before is not None:
                self._names[before].discard(key)
            self._sessions[key] = record
            self._names.setdefault(record, set()).add(key)

    def _enter(self, record: Record) -> None:
        prefix = record.prefix
        for numbers, holders in ((prefix.numbers, self._holders), (prefix.turn_numbers, self._turns)):
            for number in numbers:
                holders.add(number, record)
            self._blocks += len(numbers)

    def _leave(self, record: Record) -> None:
        prefix = record.prefix
        record.prefix = NO_PREFIX
        for numbers, holders in ((prefix.numbers, self._holders), (prefix.turn_numbers, self._turns)):
            for number in numbers:
                holders.remove(number, record)
            self._blocks -= len(numbers)


def _longest_first(matches: list[Match]) -> list[Match]:
    return sorted(matches, key=lambda match: -match.size)


def _goes_on(claim: Claim, record: Record, depth: int, from_turns: bool) -> bool:
    """Whether a prompt that is the same up to block `depth` is the next turn of the record, or its last one again."""
    if claim.principal != record.principal:
        return False
    if record.session is not None and claim.session not in (None, record.session) and not claim.session_is_weak:
        return False
    numbers, turns = record.prefix.numbers, record.prefix.turn_numbers
    if from_turns:
        return depth + 1 >= len(turns) - 1 and _is_no_chance(claim.prefix, record.prefix, depth)
    before_turns = len(numbers) - len(turns) if turns else 0
    # All but its last block, and more than what comes before the first message of the user: that is common to many.
    return depth + 1 >= max(len(numbers) - 1, before_turns + 1)


def _is_no_chance(one: Prefix, other: Prefix, depth: int) -> bool:
    """Whether what comes before the first message of the user may be the same but for a line that changes: there is as
    much of it, and what follows is more than a greeting.
    """
    differ = abs((one.size - one.turn_ends[-1]) - (other.size - other.turn_ends[-1]))
    return differ <= CHANGING and (depth > 0 or one.turn_ends[0] >= GREETING)
