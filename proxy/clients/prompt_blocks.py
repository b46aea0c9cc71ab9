"""A prompt as numbered blocks, by which one sees how far two of them begin alike. Pure.

The conversation is written down in the order in which engines' templates do: tools, what the system says, the messages.
It is cut at messages and, where one is long, within it. A block's number stands for everything from the beginning to
the block's end and is the same in every process, so saved conversations are found again by it.

What does not change the prompt changes no number: blanks and escapes of the JSON, the order of a message's fields, one
string or a list of one text, and `cache_control`, which Anthropic's clients move from turn to turn. The order of fields
deeper within a tool or a call of one does: templates write those down as they came.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256  # the fastest of those that all processes agree on
from itertools import accumulate

import msgspec

from slotproxy.instances.slots.claim import Prefix

BLOCK = 2048  # bytes of a block of a message, at most
FIRST_BLOCKS = 256  # the same at the beginning of a text that is no message, which grows or changes by a few bytes
FINE = 2048  # bytes of such a text that are cut so
FAR = 64 * 1024  # from here on a text is cut in blocks of LONG_BLOCK
LONG_BLOCK = 16 * 1024
MOST_BLOCKS = 4096  # what comes after them is not looked at
CROWDED = 512 * 1024  # bytes from which on names and objects are counted before they are taken apart
MOST_OBJECTS, MOST_NAMES = 16 * 1024, 64 * 1024  # braces and colons, those of the text included
MOST_FIELDS = 64  # of one message, tool or part that are looked at
MEDIA_SIZE = 2048  # bytes of text for which an image or a recording stands: some 500 tokens

Fields = dict[str, msgspec.Raw]

_FACTOR, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1  # odd: a difference never gets lost on the way
_IMAGES = "images"  # Ollama's, beside a message's content
_MEDIA = frozenset(
    f'"{kind}"'.encode()
    for kind in (
        *("image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video", "video_url"),
        *("document", "file", "input_file"),
    )
)
_USER = b'"user"'
_MESSAGE = b'"message"'  # the type of those items of OpenAI's responses that are messages, and may be left out
_ABSENT = b"null"
_DELETE = b"\x7f"  # the one ASCII character that some escape and others do not
_END = b"\0"  # of a role, a field, a part
_NOTHING = msgspec.Raw(b"")


class Told(msgspec.Struct, frozen=True):
    """The fields of a request that make its prompt, unparsed, in the order in which they do."""

    tools: msgspec.Raw = _NOTHING
    functions: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING  # Anthropic's, Ollama's
    instructions: msgspec.Raw = _NOTHING  # of OpenAI's responses
    messages: msgspec.Raw = _NOTHING
    context: msgspec.Raw = _NOTHING  # Ollama's tokens of what came before
    input_extra: msgspec.Raw = _NOTHING  # of /infill, as those that begin so
    input_prefix: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input_suffix: msgspec.Raw = _NOTHING
    suffix: msgspec.Raw = _NOTHING
    images: msgspec.Raw = _NOTHING  # of Ollama's /api/generate
    input: msgspec.Raw = _NOTHING  # of OpenAI's responses


_objects = msgspec.json.Decoder(list[Fields])
_string = msgspec.json.Decoder(str)


def prefix_of(told: Told) -> Prefix:
    """Of a prompt in whatever form."""
    blocks: list[bytes] = []
    turn: int | None = None  # the block with which the first message of the user begins
    for role, text in _pieces(told):
        if turn is None and role == _USER:
            turn = len(blocks)
        blocks += _cut(role + _END + text, BLOCK if role else FIRST_BLOCKS)
        if len(blocks) >= MOST_BLOCKS:
            del blocks[MOST_BLOCKS:]
            break
    if not blocks:
        return Prefix()
    hashed = struct.unpack("<" + len(blocks) * "Q24x", b"".join([sha256(each).digest() for each in blocks]))
    sizes = [len(each) for each in blocks]
    numbers, ends = _chain(hashed), tuple(accumulate(sizes))
    if turn is None:
        return Prefix(numbers=numbers, ends=ends)
    if not turn:
        return Prefix(numbers=numbers, ends=ends, turn_numbers=numbers, turn_ends=ends)
    turn_numbers, turn_ends = _chain(hashed[turn:]), tuple(accumulate(sizes[turn:]))
    return Prefix(numbers=numbers, ends=ends, turn_numbers=turn_numbers, turn_ends=turn_ends)


def _chain(hashed: Iterable[int]) -> tuple[int, ...]:
    return tuple(accumulate(hashed, lambda number, each: (number * _FACTOR + each) & _MASK))


def _cut(text: bytes, first: int) -> list[bytes]:
    """Places depend on nothing but how far they are from the beginning of `text`, never on its length."""
    size = len(text)
    if size <= first:
        return [text]
    blocks: list[bytes] = []
    for start, stop, step in ((0, FINE, first), (FINE, FAR, BLOCK), (FAR, size, LONG_BLOCK)):
        blocks += [text[place : place + step] for place in range(start, min(stop, size), step)]
    return blocks


def _pieces(told: Told) -> Iterator[tuple[bytes, bytes]]:
    """Role and text of each; a text that is no message has no role."""
    for tools in (told.tools, told.functions):
        if tools:
            yield b"tools", _content(bytes(tools))
    for system in (told.system, told.instructions):
        if system:
            yield b'"system"', _content(bytes(system))
    if told.messages:
        yield from _messages(bytes(told.messages))
    for text in (told.context, told.input_extra, told.input_prefix, told.prompt, told.input_suffix, told.suffix):
        if text:
            yield b"", _text(bytes(text))
    if told.images:
        yield b"", _media(_plain(bytes(told.images)))
    if told.input:
        items = bytes(told.input)
        yield from [(_USER, _content(items))] if items.startswith(b'"') else _messages(items)


def _messages(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    messages = _taken_apart(raw)
    if messages is None:
        yield b"", _plain(raw)
        return
    for fields in messages:
        role = bytes(fields.pop("role", b""))
        content = _content(bytes(fields.pop("content", b"")))
        rest = _written(fields) if fields else b""
        yield role, content + _END + rest if rest else content


def _content(raw: bytes, *, depth: int = 0) -> bytes:
    """A string, or the parts of which each is one. The content of a tool's result has parts once more."""
    if raw.startswith(b'"'):
        return _text(raw)
    if not raw or raw == _ABSENT:
        return b""
    parts = _taken_apart(raw) if depth < 2 else None
    return _plain(raw) if parts is None else _END.join([_part(fields, depth) for fields in parts])


def _part(fields: Fields, depth: int) -> bytes:
    text = bytes(fields.get("text", b""))
    if text.startswith(b'"'):
        return _text(text)
    if bytes(fields.get("type", b"")) in _MEDIA:
        return _media(_written(fields))
    if "content" not in fields:
        return _written(fields)
    content = _content(bytes(fields.pop("content")), depth=depth + 1)
    return _written(fields) + _END + content


def _written(fields: Fields) -> bytes:
    lines = []
    for name in sorted(fields)[:MOST_FIELDS]:
        value = bytes(fields[name])
        if name == "cache_control" or value == _ABSENT or (name == "type" and value == _MESSAGE):
            continue
        lines.append(name.encode() + b":" + (_media(_plain(value)) if name == _IMAGES else _text(value)))
    return _END.join(lines)


def _media(plain: bytes) -> bytes:
    """What stands for an image: as much text as it is worth, not its bytes."""
    digest = sha256(plain).hexdigest().encode()
    return digest * (MEDIA_SIZE // len(digest))


def _taken_apart(raw: bytes) -> list[Fields] | None:
    """A list of objects; None: it is none, or of so many that it would take long."""
    if len(raw) > CROWDED and (raw.count(b"{") > MOST_OBJECTS or raw.count(b":") > MOST_NAMES):
        return None
    try:
        return _objects.decode(raw)
    except msgspec.DecodeError:
        return None


def _text(raw: bytes) -> bytes:
    """What a string says; any other value as JSON."""
    if not raw.startswith(b'"'):
        return _plain(raw)
    if raw.find(b"\\") < 0:
        return raw[1:-1]
    try:
        return _string.decode(raw).encode()
    except ValueError:
        return raw


def _plain(raw: bytes) -> bytes:
    """A value as JSON in its plainest form, or as it is if it cannot be read.

    Serializers differ in blanks and in what they escape beyond ASCII, and hardly in anything else.
    """
    try:
        raw = msgspec.json.format(raw, indent=-1)
        return raw if raw.isascii() and raw.find(_DELETE) < 0 else _escaped(raw)
    except ValueError:
        return raw


def _escaped(raw: bytes) -> bytes:
    """In ASCII, as most would escape it. Nothing is decoded: a large value of many small ones takes long."""
    quoted = json.dumps(raw.decode())[1:-1]  # all of it as one string: its quotes and backslashes are escaped, too
    return quoted.replace('\\"', '"').replace("\\\\", "\\").encode()
