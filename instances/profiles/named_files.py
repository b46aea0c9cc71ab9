"""Files that a user's own arguments name: they must be there, and an engine that runs elsewhere must find them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from slotproxy.instances.errors import ConfigurationError

MAGIC = b"GGUF"
Kind = Literal["gguf", "any"]
_SCALE = re.compile(r"(.+):(-?[\d.]+(?:e-?\d+)?)")  # as of --lora-scaled


def made_absolute(given: Sequence[str], files: Mapping[str, Kind]) -> tuple[str, ...]:
    """`given` with whole paths, since an engine's working directory is another.

    `files`: the arguments that name them, several with commas between them. Raises ConfigurationError for one that is
    not there or not of its kind.
    """
    return tuple(_with_whole_paths(given, files))


def _with_whole_paths(given: Sequence[str], files: Mapping[str, Kind]) -> Iterator[str]:
    before = ""
    for argument in given:
        flag, joined, value = argument.partition("=")
        if joined and flag.replace("_", "-") in files:
            yield f"{flag}={_checked(flag, value, files)}"
        elif before in files:
            yield _checked(before, argument, files)
        else:
            yield argument
        before = "" if before in files else argument.replace("_", "-")


def _checked(flag: str, value: str, files: Mapping[str, Kind]) -> str:
    kind = files[flag.replace("_", "-")]
    parts = [value] if "," not in value or Path(value).exists() else value.split(",")
    return ",".join(_whole_path(flag, part.strip(), kind) for part in parts)


def _whole_path(flag: str, value: str, kind: Kind) -> str:
    scaled = None if Path(value).exists() else _SCALE.fullmatch(value)
    path, scale = (scaled[1], f":{scaled[2]}") if scaled is not None else (value, "")
    trouble = _trouble(Path(path), kind)
    if trouble is not None:
        raise ConfigurationError(f"{flag} {path} after -- {trouble}")
    return os.path.abspath(path) + scale


def _trouble(path: Path, kind: Kind) -> str | None:
    """A clause; None: it is as it should be, or its own reader will say what is wrong."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(MAGIC))
    except FileNotFoundError:
        return "does not exist"
    except IsADirectoryError:
        return "is a directory, not a file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:  # a NUL in it
        return "is no path"
    return "is not a GGUF file" if kind == "gguf" and begins != MAGIC else None
