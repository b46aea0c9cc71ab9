"""Arguments of engines that slotproxy sets itself, and that a user therefore cannot set after `--`. Pure.

An engine takes the last of repeated options: another port or model would make an instance something else than what the
proxy waits for, measures and routes to.
"""

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
_WORD = re.compile(r"\{(\w+)\}")


def check(profile: Profile, given: Sequence[str]) -> None:
    """Raises ConfigurationError where the user's own arguments are not theirs to set."""
    chosen = [argument for options in profile.options for argument in (*options.args, *options.otherwise)]
    sentence = refusal(given, [*profile.args, *chosen], profile.reserved)
    if sentence is not None:
        raise ConfigurationError(sentence)


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
