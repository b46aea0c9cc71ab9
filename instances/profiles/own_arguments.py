"""What a user may set after `--`, as far as it is known before the engine is started. Pure.

Not what slotproxy sets itself: an engine takes the last of repeated options, and another port or model would make an
instance something else than what the proxy waits for, measures and routes to. Nor what the engine's --help does not
name; and an argument that makes it print something and end is none to serve with.
"""

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles.profile import Profile

ADDRESS = "every instance gets an address of its own (--host and --port before -- are where clients connect)"
MODEL = "name the model with --model before --"
STATE = "its files belong below --state-dir"
MEANINGS = {
    "model": MODEL,
    "parent": MODEL,
    "name": MODEL,
    "host": ADDRESS,
    "port": ADDRESS,
    "port2": ADDRESS,
    "port3": ADDRESS,
    "ctx": "give --ctx-size before --",
    "kv": STATE,
    "store": STATE,
    "dir": STATE,
}  # {threads} is missing: how many suit a machine its user may know better
ENDING = ("--help", "-h", "--version")  # arguments with which an engine prints something and ends
_WORD = re.compile(r"\{(\w+)\}")
_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")
_SHOWN = re.compile(r"(?<![\w-])--?[A-Za-z][\w.-]*")


def check(profile: Profile, given: Sequence[str]) -> None:
    """Raises ConfigurationError where the user's own arguments are not theirs to set."""
    chosen = [argument for options in profile.options for argument in (*options.args, *options.otherwise)]
    ours = [argument for argument in given if argument.partition("=")[0] not in profile.names]
    sentence = refusal(ours, [*profile.args, *chosen], profile.reserved)
    ending = next((argument for argument in given if argument in ENDING), None)
    if sentence is None and ending is not None:
        sentence = f"{ending} after -- makes {profile.name} print something and end: it would never serve"
    if sentence is not None:
        raise ConfigurationError(sentence)


def model_name(profile: Profile, given: Sequence[str]) -> str | None:
    """What the user's own arguments call the model, of several names the first; None: they do not name it."""
    said = [value for flag, value in _pairs(given) if flag in profile.names]
    return said[-1].partition(",")[0].strip() or None if said else None


def check_known(profile: Profile, given: Sequence[str], help_text: str) -> None:
    """Raises ConfigurationError where one of them is an option that the engine's `help_text` does not name."""
    shown = flags_in(help_text)
    own = {_plain(argument.partition("=")[0]) for argument in profile.args if _FLAG.match(argument)}
    if own and own <= shown:  # else this is not the whole list: some engines show only a part, or that of a subcommand
        flag = next((flag for flag in map(_flag, given) if flag is not None and not _is_known(flag, shown)), None)
        if flag is not None:
            like = next(iter(difflib.get_close_matches(flag, sorted(shown), n=1)), None)
            advice = f"did you mean {like}?" if like is not None else "its --help lists those it has"
            raise ConfigurationError(f"{profile.name} has no option {flag}: {advice}")


def flags_in(help_text: str) -> frozenset[str]:
    """The options that a --help names; --[no-]x is two."""
    texts = (help_text.replace("[no-]", ""), help_text.replace("[no-]", "no-"))
    return frozenset(_plain(flag).rstrip(".-") for text in texts for flag in _SHOWN.findall(text))


def _flag(argument: str) -> str | None:
    """The option that it names; None where it does not look like one."""
    flag = _plain(argument.partition("=")[0])
    return flag if _FLAG.fullmatch(flag) else None


def _is_known(flag: str, shown: frozenset[str]) -> bool:
    """An abbreviation, a part of a dotted name and -O3 are left to the engine."""
    if flag.startswith("--"):
        return any(known.startswith(flag.partition(".")[0]) for known in shown)
    return flag in shown or flag[:2] in shown


def refusal(given: Sequence[str], args: Sequence[str], reserved: Mapping[str, str]) -> str | None:
    """Why `given`, what follows `--`, cannot be added to the `args` of a profile; None: it can.

    `reserved` are other spellings and further flags, each with the option of slotproxy to use instead.
    """
    taken = dict(_set_by(args)) | {_plain(flag): f"give {option} before --" for flag, option in reserved.items()}
    for argument in given:
        flag = argument.partition("=")[0]
        meaning = taken.get(_plain(flag)) if flag.startswith("-") else None
        if meaning is not None:
            return f"{flag} after -- is set by slotproxy: {meaning}"
    return None


def _set_by(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag in `args` whose value is of slotproxy's choosing, and what to do instead."""
    for flag, value in _pairs(args):
        words = [word for word in _WORD.findall(value) if word in MEANINGS]
        if words:
            yield _plain(flag), MEANINGS[words[0]]


def _pairs(args: Sequence[str]) -> Iterable[tuple[str, str]]:
    joined = (argument.partition("=")[::2] for argument in args if argument.startswith("-") and "=" in argument)
    apart = ((flag, value) for flag, value in itertools.pairwise(args) if flag.startswith("-"))
    return (*joined, *apart)


def _plain(flag: str) -> str:
    """llama.cpp and vLLM take underscores for dashes."""
    return flag.replace("_", "-")
