"""In which line of a TOML text a key stands: the parser of the standard library does not tell. Pure."""

import re
from collections.abc import Sequence

_TABLE = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def line_of(text: str, keys: Sequence[str | int]) -> int | None:
    """The line, counted from 1, of the key at `keys` (an array's element by its number); of its table, or of the value
    that contains it, where it has no line of its own. A key that stands in braces such as {prot} is looked for as text.

    A guess where a string of several lines looks like TOML itself: it is for messages only.
    """
    if len(keys) == 1 and str(keys[0]).startswith("{"):
        return next((number for number, line in enumerate(text.splitlines(), 1) if str(keys[0]) in line), None)
    best, length = None, 0
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            found = table
        elif key := _KEY.match(line):
            found = (*table, *_parts(key[1]))
        else:
            continue
        if length < len(found) <= len(keys) and found == tuple(keys[: len(found)]):
            best, length = number, len(found)
    return best


def _parts(dotted: str) -> tuple[str | int, ...]:
    return tuple(part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", dotted))
