"""Numbers as people write them: sizes, counts, ordinals. Pure."""

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def instances(count: int) -> str:
    """`1 instance`, `2 instances`."""
    return f"{count} instance{'s' * (count != 1)}"


def ordinal(number: int) -> str:
    """With its article: `a third`, `an eighth`, `a 21st`."""
    if number <= len(_ORDINALS):
        word = _ORDINALS[number - 1]
    else:
        word = f"{number}{'th' if number % 100 in (11, 12, 13) else _ENDINGS.get(number % 10, 'th')}"
    return f"{'an' if word.startswith(('e', '8', '11th', '18th')) else 'a'} {word}"


def size(count: int) -> str:
    """Bytes: `81.2 GiB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
