"""Results in a file of the state directory, so that the next start need not find them out again. Each has a key."""

import logging
import os
from codecs import BOM_UTF8
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

logger = logging.getLogger(__name__)

KEPT = 32  # results; the oldest go first


class Result(Protocol):
    @property
    def at(self) -> float:
        """When it was found out: seconds since 1970."""


R = TypeVar("R", bound=Result)


def read(path: Path, kind: type[dict[str, R]]) -> dict[str, R]:
    """All of them by key; none where there is no file that can be used."""
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(BOM_UTF8), type=kind)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:  # cut off, or of another version of slotproxy
        logger.info("%s is not used: %s", path, error)
        return {}


def keep(path: Path, kind: type[dict[str, R]], key: str, result: R, *, otherwise: str) -> None:
    """Put `result` in place of what has that key. `otherwise` is what a file that cannot be written means."""
    results = {name: one for name, one in read(path, kind).items() if name != key} | {key: result}
    newest = sorted(results.items(), key=lambda item: item[1].at)[-KEPT:]
    draft = path.with_suffix(".tmp")
    try:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(dict(newest)), indent=2) + b"\n")
        os.replace(draft, path)
    except OSError as error:
        logger.warning("%s cannot be written (%s): %s", path, error.strerror, otherwise)
