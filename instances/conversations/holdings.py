"""What each engine and the store hold of which conversation, as far as anybody can tell from outside. Pure.

An engine holds the conversation it worked on last, and most keep some before it beside their slot. How many is not
known: an engine is believed to keep a few, until it computes what it was believed to have, or has what it was not.
"""

from collections.abc import Hashable, Iterable
from typing import Any

from slotproxy.instances.conversations.index import Index, Record
from slotproxy.instances.conversations.store import Saved
from slotproxy.instances.slots.claim import Prefix

MOST_HELD = 32  # conversations that are remembered of one engine
FIRST_DEPTH = 4  # conversations that an engine is believed to hold at first


class Held:
    """What an engine has of a conversation, as of one of its turns. Compared by identity."""

    __slots__ = ("is_counted", "prefix", "record", "tokens")

    def __init__(self, record: Record, prefix: Prefix, tokens: int, *, is_counted: bool = False) -> None:
        self.record = record
        self.prefix = prefix  # of the prompt of that turn
        self.tokens = tokens
        self.is_counted = is_counted  # the engine has said how many they are


class Home:
    """One engine."""

    __slots__ = ("build", "depth", "finds_files", "grant", "held", "turns")

    def __init__(self, build: Hashable | None) -> None:
        self.build = build  # None: nothing can be saved or read there
        self.finds_files = False  # that other engines have written
        self.held: list[Held] = []  # the latest first
        self.depth = FIRST_DEPTH  # so many of them are believed to be there still
        self.grant = 0  # number of the lease in which it got the latest
        self.turns: list[Any] = []  # that it works on


class Holdings:
    """Of one proxy."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._homes: dict[Any, Home] = {}
        self._places: dict[Record, dict[Any, Held]] = {}
        self._saved: dict[Record, Saved] = {}

    # asking

    def home(self, member: Any) -> Home:
        """That of an engine; a new one if it was not known."""
        home = self._homes.get(member)
        if home is None:
            home = self._homes[member] = Home(None)
        return home

    def knows(self, member: Any) -> bool:
        """Whether it is an engine that may hold something: not one that is gone."""
        return member in self._homes

    def places(self, record: Record) -> Iterable[tuple[Any, Held]]:
        """The engines that have something of a conversation, and what."""
        return self._places.get(record, {}).items()

    def saved(self, record: Record) -> Saved | None:
        """What the store has of a conversation; None: nothing."""
        return self._saved.get(record)

    def is_saved(self, held: Held) -> bool:
        """Whether the store has all of it."""
        saved = self._saved.get(held.record)
        return saved is not None and saved.prefix is held.prefix

    def is_wanted(self, held: Held) -> bool:
        """Whether its conversation is remembered."""
        return held.record in self.index

    # changing

    def add(self, member: Any, build: Hashable | None, *, finds_files: bool = False) -> None:
        """An engine that holds nothing yet, unless it is known already; `build`: what it can read from the store."""
        home = self.home(member)
        home.finds_files = finds_files
        if build is not None:
            home.build = build

    def forget(self, member: Any) -> None:
        """The engine is gone, and all it held."""
        home = self._homes.pop(member, None)
        if home is not None:
            for held in home.held:
                self._out_of_place(held)

    def hold(self, member: Any, held: Held, grant: int) -> None:
        """From now on this is what the engine worked on last, in the lease of that number."""
        home = self.home(member)
        places = self._places.setdefault(held.record, {})
        before = places.get(member)
        if before is not None:
            home.held.remove(before)
        places[member] = held
        home.held.insert(0, held)
        home.grant = grant
        if len(home.held) > MOST_HELD:
            self._out_of_place(home.held.pop())

    def lose(self, member: Any, record: Record) -> None:
        """The engine no longer has that conversation."""
        held = self._places.get(record, {}).get(member)
        if held is not None:
            self._homes[member].held.remove(held)
            self._out_of_place(held)

    def lose_first(self, member: Any) -> None:
        """The slot of the engine was written over."""
        home = self._homes.get(member)
        if home is not None and home.held:
            self._out_of_place(home.held.pop(0))

    def correct(self, member: Any, record: Record, *, had: bool) -> None:
        """The engine had, or had not, what it was believed to have of a conversation."""
        home, held = self.home(member), self._places.get(record, {}).get(member)
        if held is None:
            return
        position = home.held.index(held)
        if had:
            home.depth = max(home.depth, position + 1)
        else:
            home.depth = max(1, position)
            for lost in home.held[position:]:
                self._out_of_place(lost)
            del home.held[position:]

    def save(self, record: Record, saved: Saved) -> None:
        """The store has it now."""
        if record in self.index:
            self._saved[record] = saved

    def unsave(self, record: Record) -> None:
        """The store has nothing of it."""
        self._saved.pop(record, None)

    def discard(self, name: str) -> None:
        """The store has no file of that name any longer."""
        for record in [record for record, saved in self._saved.items() if saved.name == name]:
            del self._saved[record]

    def make_room(self) -> None:
        """Forget conversations until the index is within its bounds."""
        while (record := self.index.overflowing()) is not None:
            self.index.drop(record)
            self._saved.pop(record, None)
            for member in [member for member, _ in self.places(record)]:
                self.lose(member, record)

    def _out_of_place(self, held: Held) -> None:
        places = self._places.get(held.record, {})
        for member in [member for member, what in places.items() if what is held]:
            del places[member]
        if not places:
            self._places.pop(held.record, None)
