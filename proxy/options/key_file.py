"""Files of API keys: one in a line, with a label by which it may be spoken of.

`LABEL: KEY` and `KEY # LABEL` say it. A key holds no blanks, so a colon belongs to it unless a blank follows. What
stands behind `#` and is no label is a comment, as it always was.
"""

import re
import stat
from pathlib import Path

from slotproxy.instances.errors import ConfigurationError
from slotproxy.proxy.options.values import KEY

_COMMENT = re.compile(r"(?:^|[ \t])#")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LABELLED = re.compile(r"([^ \t]*):[ \t]+(.*)", re.DOTALL)
_BLANKS = " \t\r"  # around a key; some editors end lines with CRLF


def read(path: Path) -> list[tuple[str, str]]:
    """Label and key of each; an empty label: it has none. Raises ConfigurationError, which tells nothing of a key."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # nothing else ends a line
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"--api-key-file {path} cannot be read: {reason}") from None
    keys = []
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


def _read(text: str, comment: str) -> tuple[str, str]:
    """Raises ValueError."""
    labelled = _LABELLED.fullmatch(text)
    if labelled is None:
        return (comment if _LABEL.fullmatch(comment) else ""), KEY.read(text)
    label, key = labelled.groups()
    if not _LABEL.fullmatch(label):
        raise ValueError("has a label that is not 1 to 64 letters, digits, dots, hyphens or underscores")
    return label, KEY.read(key)


def is_open_to_all(path: Path) -> bool:
    """Whether every user of the machine can read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # whoever reads the keys says so
