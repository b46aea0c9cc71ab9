"""Numbers as people write them: sizes, counts, ordinals, days. Pure."""

from datetime import UTC, datetime

_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def size(count: int) -> str:
    """Bytes: `81.2 GiB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def about(count: int) -> str:
    """Bytes that are an estimate, in three digits: `about 131 MiB`, `about 18.6 GiB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"about {count / factor:.{1 if count < 99.95 * factor else 0}f} {unit}"
    return f"about {count} bytes"


def instances(count: int) -> str:
    """`1 instance`, `2 instances`."""
    return f"{count} instance{'s' * (count != 1)}"


def ordinal(number: int) -> str:
    """`2nd`, `8th`, `21st`."""
    return f"{number}{'th' if number % 100 in (11, 12, 13) else _ENDINGS.get(number % 10, 'th')}"


def article(number: int) -> str:
    """What stands before its ordinal: `a` 2nd, `an` 8th."""
    return "an" if str(number).startswith("8") or number in (11, 18) else "a"


def day(seconds: float) -> str:
    """The day of a moment, seconds since 1970, in UTC: `2026-11-25`."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
