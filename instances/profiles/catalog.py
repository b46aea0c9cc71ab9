"""The catalog of engine profiles: those that come with slotproxy and the user's own, one TOML file per engine.

Unknown tables and keys are errors that name the file, the line and the key.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles.profile import PLACES, Profile
from slotproxy.instances.slotless import is_entry

PLAIN = {"Object contains unknown field": "unknown key", "Object missing required field": "missing key", "`": "'"}
_TABLE = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def names() -> tuple[str, ...]:
    """Names of the profiles that come with slotproxy."""
    files = (entry.name for entry in _shipped().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def load(engine: str) -> Profile:
    """The profile of that name, or in the file at that path. Raises ConfigurationError."""
    if "/" in engine or engine.endswith(".toml"):
        return _read(Path(os.path.expanduser(engine)))
    if engine not in names():
        raise ConfigurationError(
            f"there is no engine profile {engine!r}; known are {', '.join(names())}, or give the path of a profile file"
        )
    return parse((_shipped() / f"{engine}.toml").read_text(encoding="utf-8"), f"{engine}.toml")


def parse(text: str, file: str) -> Profile:
    """Raises ConfigurationError that names `file`, the line and the key."""
    try:
        profile = msgspec.convert(tomllib.loads(text), Profile)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"engine profile {file} is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"engine profile {file}, {_plain(str(error), text)}") from None
    for keys, complaint in _complaints(profile):
        raise ConfigurationError(f"engine profile {file}, {_place(keys, text)}{complaint}")
    return profile


def _shipped() -> Any:
    return resources.files("slotproxy.instances.profiles")


def _read(path: Path) -> Profile:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"the engine profile {path} does not exist; check --engine") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the engine profile {path} cannot be read: {error}") from None
    return parse(text, str(path))


def _plain(message: str, text: str) -> str:
    """msgspec's words for a user: the line and the key first, without its `$.` notation."""
    what, _, where = message.partition(" - at ")
    for theirs, ours in PLAIN.items():
        what = what.replace(theirs, ours)
    keys = [int(part) if part.isdigit() else part for part in re.findall(r"[^$.\[\]`]+", where)]
    named = re.search("unknown key '(.+)'", what)
    return _place(keys, text, named[1] if named else None) + what


def _place(keys: Sequence[str | int], text: str, unknown: str | None = None) -> str:
    line = line_of(text, [*keys, unknown] if unknown else keys)
    where = ".".join(str(key) for key in keys)
    return (f"line {line}: " if line else "") + (f"in {where}: " if where else "")


def _complaints(profile: Profile) -> Iterator[tuple[Sequence[str | int], str]]:
    """What is wrong although every single value is sound: the key and a clause."""
    if (profile.executable is None) == (profile.module is None):
        yield ("module",), "give either 'executable' or 'module'"
    patterns: list[tuple[Sequence[str | int], str]] = [(("ready", "banner"), profile.ready.banner or "")]
    patterns += [(("fatal", number, "pattern"), fatal.pattern) for number, fatal in enumerate(profile.fatal)]
    for keys, pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield keys, f"bad pattern {pattern!r}: {error}"
    for word in sorted(profile.placeholders - set(PLACES)):
        yield (f"{{{word}}}",), f"unknown placeholder {{{word}}}; known are {', '.join(PLACES)}"
    for number, entry in enumerate(profile.http.slotless):
        if not is_entry(entry):
            yield ("http", "slotless", number), f"{entry!r} is neither a path nor a method and a path: POST /tokenize"
    if profile.ready.path is None and profile.ready.banner is None:
        yield ("ready",), "it needs 'path' or 'banner'"
    if profile.context.path is not None and not profile.context.pointer.startswith("/"):
        yield ("context", "pointer"), "'path' needs a 'pointer' into its answer, such as /data/0/n_ctx"


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
