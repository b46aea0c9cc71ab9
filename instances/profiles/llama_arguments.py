"""llama-server's command line, read as the wheel's settings. Pure: files it names are opened by the caller.

Like llama-server: an underscore in a long option is a dash, of an option given twice the last counts, and those that
name files to load are joined. Unlike it, a value may be joined to its option with `=`.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence

from slotproxy.instances.profiles.llama_option import Option
from slotproxy.instances.profiles.llama_options import OPTIONS, REFUSED
from slotproxy.instances.profiles.llama_values import Setting

KNOWN = {flag: option for option in OPTIONS for flag in option.flags}
_LONGEST = 200  # characters of an argument that are said again


class ArgumentError(ValueError):
    """The message is one sentence without a full stop; it names the argument."""


def settings(arguments: Sequence[str]) -> Iterator[Setting]:
    """What they set, in their order. Raises ArgumentError for the first that is wrong."""
    rest = iter(arguments)
    for argument in rest:
        written, joined, value = argument.partition("=")
        flag = spelling(written)
        option = _option(flag, argument)
        if option.hint and not joined:
            value = _value(flag, next(rest, None))
        elif joined and not option.hint:
            raise ArgumentError(f"{flag} takes no value, and {shortened(value)!r} was given")
        yield from _settings(flag, option, value)


def spelling(flag: str) -> str:
    """With dashes for underscores, as llama.cpp compares them."""
    return flag.replace("_", "-") if flag.startswith("--") else flag


def nearest(flag: str, known: Iterable[str]) -> str | None:
    """The known flag that is written most like `flag`; None where none is like it."""
    return next(iter(difflib.get_close_matches(flag, list(known), n=1)), None)


def unknown(flag: str, known: Iterable[str]) -> str:
    """The sentence for a flag that is not one of the `known`."""
    like = nearest(flag, known)
    return f"unrecognized arguments: {shortened(flag)}" + (f"; did you mean {like}?" if like is not None else "")


def shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def usage() -> str:
    """A line for each option: its spellings, and the kind of its value."""
    return "\n".join(f"  {', '.join(option.flags)} {option.hint}".rstrip() for option in OPTIONS)


def _option(flag: str, argument: str) -> Option:
    if flag in REFUSED:
        raise ArgumentError(f"{flag} cannot be used: {REFUSED[flag]}")
    if flag in KNOWN:
        return KNOWN[flag]
    if not argument.startswith("-"):
        raise ArgumentError(f"{shortened(argument)!r} belongs to no option")
    raise ArgumentError(unknown(flag, KNOWN))


def _value(flag: str, value: str | None) -> str:
    if value is None or spelling(value.partition("=")[0]) in KNOWN:
        raise ArgumentError(f"{flag} needs a value{'' if value is None else f', and {value} follows it'}")
    return value


def _settings(flag: str, option: Option, value: str) -> Iterable[Setting]:
    try:
        return [dataclasses.replace(setting, flag=flag) for setting in option.settings(value)]
    except ValueError as error:
        raise ArgumentError(f"{flag} {shortened(str(error))}") from None
