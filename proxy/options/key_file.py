"""Files of API keys: one in a line, with a label by which it may be spoken of.

`LABEL: KEY` and `KEY # LABEL` say it. A key holds no blanks, so a colon belongs to it unless a blank follows. What
stands behind `#` and is no label is a comment, as it always was. `weight=N` there says how much of the service its user
may have while others want it, too: N times as much as one without.
"""

import re
import stat
from pathlib import Path
from typing import NamedTuple

from slotproxy.instances.errors import ConfigurationError
from slotproxy.proxy.options.values import KEY

_COMMENT = re.compile(r"(?:^|[ \t])#")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LABELLED = re.compile(r"([^ \t]*):[ \t]+(.*)", re.DOTALL)
_BLANKS = " \t\r"  # around a key; some editors end lines with CRLF
_WEIGHT = re.compile(r"weight=(\d{1,4}(?:\.\d{1,3})?)")


class LabelledKey(NamedTuple):
    """One of a file."""

    label: str  # empty: it has none
    key: str
    weight: float = 1.0


def read(path: Path) -> list[LabelledKey]:
    """Raises ConfigurationError, which tells nothing of a key."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # nothing else ends a line
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"--api-key-file {path} cannot be read: {reason}") from None
    keys: list[LabelledKey] = []
    for position, line in enumerate(lines, start=1):
        text, *comment = (part.strip(_BLANKS) for part in _COMMENT.split(line, maxsplit=1))
        try:
            if text:
                keys.append(_read(text, comment[0] if comment else ""))
        except ValueError as error:
            raise ConfigurationError(f"line {position} of --api-key-file {path} is no key: it {error}") from None
    if not keys:  # an empty file would mean a server that is open to everybody
        raise ConfigurationError(f"--api-key-file {path} holds no key: write one per line")
    return keys


def _read(text: str, comment: str) -> LabelledKey:
    """Raises ValueError."""
    weight, comment = _weighed(comment)
    labelled = _LABELLED.fullmatch(text)
    if labelled is None:
        return LabelledKey(comment if _LABEL.fullmatch(comment) else "", KEY.read(text), weight)
    label, key = labelled.groups()
    if not _LABEL.fullmatch(label):
        raise ValueError("has a label that is not 1 to 64 letters, digits, dots, hyphens or underscores")
    return LabelledKey(label, KEY.read(key), weight)


def _weighed(comment: str) -> tuple[float, str]:
    """The weight that it says, and the rest of it. Raises ValueError."""
    words = comment.split()
    said = [found for found in map(_WEIGHT.fullmatch, words) if found is not None]
    if not said:
        return 1.0, comment
    weight = float(said[0][1])
    if len(said) > 1 or not weight:
        raise ValueError("has a weight that is not one number above 0")
    return weight, " ".join(word for word in words if _WEIGHT.fullmatch(word) is None)


def is_open_to_all(path: Path) -> bool:
    """Whether every user of the machine can read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # whoever reads the keys says so
