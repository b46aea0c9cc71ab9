"""Which saved conversations there are, and which goes when there is no room. Pure: `files` holds what they stand for.

Nothing here touches a file: every change returns the names of the files that nobody needs any more.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from slotproxy.instances.slots.claim import Prefix

LARGEST = 8 << 30  # bytes of all files, unless the user says otherwise
SHARE = 10  # of the free disk: one part of so many
MOST = 4096  # saved conversations
PAUSE = 60.0  # seconds without a save after the disk was full


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A file as it was when it was saved: another one, or another content, has another stamp."""

    size: int  # bytes
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What one engine had computed of a conversation, in a file."""

    name: str  # of the file
    principal: str  # whose conversation it is
    prefix: Prefix  # of the prompt that was sent
    tokens: int
    build: str  # which engines may go on with it: those whose model, build and arguments have the same fingerprint
    stamp: Stamp

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.stamp.size


class Store:
    """The least recently used first; never more than `limit` bytes of files, never more than `most` of them."""

    def __init__(self, limit: int, most: int = MOST) -> None:
        self._limit = limit
        self._most = most
        self._saved: OrderedDict[str, Saved] = OrderedDict()
        # An entry by its last block, which stands for the whole of its prompt. Two never have the same one.
        self._ends: dict[tuple[str, str, int], str] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return self._size

    @property
    def limit(self) -> int:
        return self._limit

    def __len__(self) -> int:
        return len(self._saved)

    def values(self) -> Iterable[Saved]:
        """The least recently used first."""
        return self._saved.values()

    def find(self, name: str) -> Saved | None:
        """None: it is not there, or no longer."""
        return self._saved.get(name)

    def add(self, saved: Saved, replaces: Iterable[str] = ()) -> tuple[str, ...]:
        """Keep it as the one used last; the names of files to delete.

        It takes the place of those that `replaces` names, and of every older one of the same principal and build whose
        prompt is the beginning of this one's: whatever they can give, this one can. One that is too large for the store
        is not kept: its own name is returned, and the older ones stay.
        """
        if saved.size > self._limit or self._most < 1:
            self.discard(saved.name)
            return (saved.name,)
        superseded = {*self._beginnings(saved), *replaces} - {saved.name}
        gone = [name for name in superseded if self.discard(name)]
        self.discard(saved.name)
        self._saved[saved.name] = saved
        self._size += saved.size
        self._ends.update(dict.fromkeys(_end(saved), saved.name))
        return (*gone, *self._evict())

    def touch(self, name: str) -> None:
        """It is used now."""
        if name in self._saved:
            self._saved.move_to_end(name)

    def discard(self, name: str) -> bool:
        """Forget it; whether it was there. Its file is the caller's to delete."""
        saved = self._saved.pop(name, None)
        if saved is None:
            return False
        self._size -= saved.size
        for end in _end(saved):
            del self._ends[end]
        return True

    def confine(self, limit: int) -> tuple[str, ...]:
        """From now on at most `limit` bytes; the names of files to delete."""
        self._limit = limit
        return (*self._evict(),)

    def _beginnings(self, saved: Saved) -> Iterator[str]:
        ends = ((saved.principal, saved.build, number) for number in saved.prefix.numbers)
        return (self._ends[end] for end in ends if end in self._ends)

    def _evict(self) -> Iterator[str]:
        while self._size > self._limit or len(self._saved) > self._most:
            name = next(iter(self._saved))
            self.discard(name)
            yield name


class Pause:
    """When saving is worth another try after the disk was full."""

    def __init__(self, length: float = PAUSE) -> None:
        self._length = length
        self._until = float("-inf")
        self._said = False

    def over(self, now: float) -> bool:
        """Whether a save may be tried at `now`."""
        return now >= self._until

    def begin(self, now: float) -> bool:
        """The disk was full at `now`; whether that is news: it is once, until a save succeeds again."""
        self._until = now + self._length
        news, self._said = not self._said, True
        return news

    def end(self) -> None:
        """A save succeeded."""
        self._until, self._said = float("-inf"), False


def default_limit(free: int) -> int:
    """Bytes that saved conversations may take of a disk of which `free` bytes are not in use."""
    return min(free // SHARE, LARGEST)


def _end(saved: Saved) -> tuple[tuple[str, str, int], ...]:
    """Its last block; nothing where nothing is known of its prompt."""
    return tuple((saved.principal, saved.build, number) for number in saved.prefix.numbers[-1:])
