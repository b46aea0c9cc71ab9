"""What a passing answer says of itself: events, tokens, when the first token came. Pure; never alters a byte.

The cost per event is one append to a list: what came is put together now and then to a block, and the latest blocks are
kept. Counting is done when one is dropped and at the end. The counts do not depend on where the bytes were cut.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

KEPT = 8 * 1024  # bytes of the end of an answer that are searched for its usage object
_MOST = 2 * KEPT  # bytes that are kept at most, so that not every large piece has to be cut
_BLOCK = 4 * 1024  # bytes of a block to which nothing is added any more
_FIRST, _LAST = _BLOCK, 2 * 1024  # bytes in which the first and the last events of a stream mostly are
MANY = 48  # pieces that are put together: with fewer the work is done more often, with more each stream keeps more
_LARGE = 4096  # bytes of a piece that is not kept waiting for others
_DATA = b"\ndata:"
_SEAM = len(_DATA) - 1  # bytes of a block that the next one repeats: a pattern across is whole in one, and only one
_USAGE, _TIMINGS = b'"usage"', b'"timings"'
_OBJECT = re.compile(rb"\s*:\s*(?=\{)")
_LONGEST = 4096  # bytes of a usage object
_LOOKS = 8  # places at most that are looked at for one of them: a text may be full of the word
_END = re.compile(
    rb"^data:\s*\[DONE\]|^event:\s*(?:message_stop|error|response\.(?:completed|failed|incomplete))\s*$"
    rb'|"type"\s*:\s*"(?:message_stop|error|response\.(?:completed|failed|incomplete))"|^data:\s*\{\s*"error"',
    re.MULTILINE,
)
_NESTED_ONCE = re.compile(rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")


class Usage(NamedTuple):
    """Tokens of one request as the engine counted them; None: it did not say."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether both that matter are known."""
        return self.prompt is not None and self.completion is not None

    def or_else(self, other: "Usage") -> "Usage":
        """This one, what it lacks taken from `other`."""
        return Usage(
            other.prompt if self.prompt is None else self.prompt,
            other.completion if self.completion is None else self.completion,
            other.cached if self.cached is None else self.cached,
        )


class _Details(msgspec.Struct):
    cached_tokens: Any = None


class _Said(msgspec.Struct):
    """A usage object of OpenAI's or Anthropic's, or llama.cpp's timings, as far as it is wanted."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: _Details | None = None
    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    prompt_n: Any = None
    predicted_n: Any = None
    cache_n: Any = None


class _Whole(msgspec.Struct):
    """A JSON body, as far as it is wanted."""

    usage: _Said | None = None


_said = msgspec.json.Decoder(_Said)
_whole = msgspec.json.Decoder(_Whole)
_UNSAID = _Said()
NOTHING = Usage()


class Meter:
    """Feed it the body of one answer, chunk by chunk."""

    __slots__ = ("_blocks", "_early", "_events", "_held", "_size", "_stream", "pieces")

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._blocks = [b"\n"]  # what is kept, the oldest first; a stream's first line begins as any other does
        self._held = 1  # bytes in the blocks, what one repeats of another not counted
        self._events = 0
        self._size = 0
        self._early: Usage | None = None
        self.pieces: list[bytes] = []  # the latest; whoever adds to them itself calls `settle` when there are MANY

    def feed(self, chunk: bytes) -> None:
        """The next piece, of any size."""
        self.pieces.append(chunk)
        if len(chunk) >= _LARGE or len(self.pieces) >= MANY:
            self.settle()

    def settle(self) -> None:
        """Put the pieces to what is kept."""
        if not self.pieces:
            return
        blocks = self._blocks
        last = blocks[-1]
        if len(last) < _BLOCK:
            blocks[-1] = block = b"".join((last, *self.pieces))
            fresh = len(block) - len(last)
        else:
            block = b"".join((last[-_SEAM:], *self.pieces))
            blocks.append(block)
            fresh = len(block) - _SEAM
        self.pieces.clear()
        self._size += fresh
        self._held += fresh
        while self._held - len(blocks[0]) >= KEPT:
            self._drop(len(blocks[0]))
        if self._held > _MOST:
            self._drop(self._held - KEPT)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size + sum(map(len, self.pieces))

    @property
    def tail(self) -> bytes:
        """The end of what came, 8 KiB or all there is."""
        return self._kept()[-KEPT:]

    @property
    def has_event(self) -> bool:
        """Whether a `data:` line has begun."""
        self.settle()
        return self._events > 0 or any(_DATA in block for block in self._blocks)

    def more_than_comments(self, since: int) -> bool:
        """Whether any line that came after the first `since` bytes is more than a comment: some engines send those to
        show that they live, which is no proof that they work.
        """
        self.settle()
        fresh = self._size - since
        if fresh <= 0 or fresh > self._held:
            return fresh > 0
        kept = self._kept()
        begin = kept.rfind(b"\n", 0, len(kept) - fresh) + 1
        return any(line.strip() and not line.startswith(b":") for line in kept[begin:].split(b"\n"))

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end where an event may begin."""
        kept = self._kept()
        return kept == b"\n" or kept.endswith((b"\n\n", b"\r\n\r\n"))

    @property
    def events(self) -> int:
        """`data:` lines of a stream so far, `[DONE]` included."""
        self.settle()
        return self._events + sum(block.count(_DATA) for block in self._blocks)

    @property
    def done(self) -> bool:
        """Whether the stream said that it is complete in OpenAI's way."""
        return self._kept()[-64:].rstrip().endswith(b"data: [DONE]")

    @property
    def ended(self) -> bool:
        """Whether the last event of the stream is one that ends an answer, in OpenAI's or Anthropic's way."""
        last = self._kept().rstrip().rpartition(b"\n\n")
        # Of an event that is longer than what was kept only the end is here: it is whole where a new one may begin.
        return _END.search(last[2]) is not None or (not last[1] and self._size > KEPT and self.at_boundary)

    def usage(self) -> Usage:
        """The engine's own count, else llama.cpp's timings, else one token per event."""
        kept = self._kept()
        found = find_usage(kept[-_LAST:]) if self._stream else self._whole_usage(kept)
        if found.is_whole:
            return found
        found = find_usage(kept[-KEPT:])
        if self._early is not None:
            found = found.or_else(self._early)
        if found.prompt is None and len(kept) > KEPT:
            found = found.or_else(find_usage(kept))
        if found.completion is None and self._stream and self.events:
            found = found.or_else(Usage(completion=self.events - self.done))
        return found

    def _whole_usage(self, kept: bytes) -> Usage:
        """That of a body of which nothing was dropped, if it is an object that names it: cheaper than a search."""
        if self._size >= len(kept):
            return NOTHING
        try:
            said = _whole.decode(kept)
        except msgspec.DecodeError:
            return NOTHING
        return NOTHING if said.usage is None else _from_usage(said.usage)

    def _kept(self) -> bytes:
        """All that is kept, and what came since it was last put together."""
        self.settle()
        first, *others = self._blocks
        if others:
            first = b"".join((first, *(memoryview(block)[_SEAM:] for block in others)))
            self._blocks = [first]
        return first

    def _drop(self, size: int) -> None:
        """Forget the first `size` bytes, of the oldest block, but count what is in them."""
        first = self._blocks[0]
        if self._early is None:  # Anthropic's first event; what else there is of use comes last
            self._early = find_usage(first[: min(size, _FIRST)])
        if self._stream:  # of other bodies nobody wants to know
            self._events += first.count(_DATA, 0, size)
        if size < len(first):
            self._blocks[0] = first[size - _SEAM :]
        else:
            del self._blocks[0]  # the next one begins with its end
        self._held -= size - _SEAM


def usage_of(body: bytes) -> Usage:
    """That of a whole body that is no stream."""
    try:
        said = _whole.decode(body).usage if len(body) <= _MOST else None  # else to search its end costs less
    except msgspec.DecodeError:
        said = None
    if said is not None:
        prompt, completion, details = said.prompt_tokens, said.completion_tokens, said.prompt_tokens_details
        cached = said.cache_read_input_tokens if details is None else details.cached_tokens
        is_plain = type(prompt) is type(completion) is int and prompt >= 0 <= completion
        if is_plain and (cached is None or (type(cached) is int and cached >= 0)):
            # As most say it. One for each short answer: the class's own constructor costs three times as much.
            return tuple.__new__(Usage, (prompt, completion, cached))
        if (found := _from_usage(said)).is_whole:
            return found
    meter = Meter(stream=False)
    meter.feed(body)
    return meter.usage()


def find_usage(data: bytes) -> Usage:
    """The last usage object in `data`, completed by earlier ones (Anthropic splits it over two events)."""
    found = NOTHING
    for start in _objects(data, _USAGE):
        new = _from_usage(_object_at(data, start))
        found = new if found is NOTHING else found.or_else(new)
        if found.is_whole:
            return found
    if found.completion is None:
        for start in _objects(data, _TIMINGS):
            return found.or_else(_from_timings(_object_at(data, start)))
    return found


def _objects(data: bytes, key: bytes) -> Iterator[int]:
    """Where the objects that are values of `key` begin, the last first."""
    end = len(data)
    for _ in range(_LOOKS):
        end = data.rfind(key, 0, end)
        if end < 0:
            return
        match = _OBJECT.match(data, end + len(key))
        if match is not None and data[end - 1 : end] != b"\\":  # else it stands in a string
            yield match.end()


def _object_at(data: bytes, start: int) -> _Said:
    text = data[start : data.find(b"}", start, start + _LONGEST) + 1]
    if text.count(b"{") != 1:  # it is nested, or has no end
        match = _NESTED_ONCE.match(data, start, start + _LONGEST)
        if match is None:
            return _UNSAID
        text = match.group()
    try:
        return _said.decode(text)
    except msgspec.DecodeError:
        return _UNSAID


def _from_usage(said: _Said) -> Usage:
    details = said.prompt_tokens_details or said.input_tokens_details
    cached = _count(said.cache_read_input_tokens if details is None else details.cached_tokens)
    prompt = _count(said.input_tokens if said.prompt_tokens is None else said.prompt_tokens)
    if prompt is not None and said.prompt_tokens is None and details is None:
        # Anthropic's are only those behind what was cached or is being cached; everybody else's are all of them.
        prompt += (cached or 0) + (_count(said.cache_creation_input_tokens) or 0)
    completion = said.output_tokens if said.completion_tokens is None else said.completion_tokens
    return Usage(prompt, _count(completion), cached)


def _from_timings(said: _Said) -> Usage:
    prompt, cached = _count(said.prompt_n), _count(said.cache_n)
    total = None if prompt is None else prompt + (cached or 0)
    return Usage(total, _count(said.predicted_n), cached)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
