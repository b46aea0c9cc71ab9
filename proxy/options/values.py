"""How the values of options are written: text to value and back. Pure.

A reader raises ValueError whose text completes the sentence "--port is 'x', but ...".
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slotproxy.instances.settings import Api, MemoryLimit, UpstreamSpec

YEAR = 365 * 24 * 3600.0  # no wait is meant to be longer, and the event loop's timers can hold it

_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1} | {
    letter + unit: base**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, base in (("ib", 1024), ("b", 1000))
}
_APIS = tuple(api.value for api in Api)
_OF_AN_UPSTREAM = {"slots": "K", "key-env": "VAR", "overflow": "true", "model": "NAME", "api": "|".join(_APIS)}
_FLAGS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
_URL_WANTED = "must begin with a URL such as http://127.0.0.1:8081"
_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to write a value. `metavar` stands for it in the help."""

    metavar: str
    read: Callable[[str], Any]
    show: Callable[[Any], str] = str
    flag: bool = False  # written without a value


def choice(words: Iterable[str]) -> Kind:
    """One of `words`."""
    allowed = tuple(words)

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return Kind(metavar="|".join(allowed), read=read)


def number(minimum: int, maximum: int | None = None, metavar: str = "N") -> Kind:
    """A whole number from `minimum` to `maximum`."""
    allowed = f"must be a whole number{f', {minimum} or more' if maximum is None else f' from {minimum} to {maximum}'}"

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or not minimum <= int(text) <= (maximum or int(text)):
            raise ValueError(allowed)
        return int(text)

    return Kind(metavar=metavar, read=read)


def duration(*, zero: bool) -> Kind:
    """Seconds as float. `zero`: may it be 0?"""
    allowed = "must be a time such as 500ms, 60s, 30m or 1h" + ("" if zero else ", more than 0")

    def read(text: str) -> float:
        match = _QUANTITY.fullmatch(text)
        if match is None or match[2] not in _SECONDS:
            raise ValueError(allowed)
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds > YEAR:
            raise ValueError("must be at most 365d")
        if not seconds and not zero:
            raise ValueError(allowed)
        return seconds

    return Kind(metavar="TIME", read=read, show=_show_seconds)


def read_size(text: str) -> int:
    """Bytes, more than 0. `24GiB` counts in 1024s, `24GB` in 1000s."""
    size = _bytes(text)
    if size is None or size < 1:
        raise ValueError("must be a size such as 512MiB, 24GiB or 8GB")
    return size


def read_size_or_zero(text: str) -> int:
    """Bytes, as `read_size`, or none."""
    size = _bytes(text)
    if size is None:
        raise ValueError("must be a size such as 512MiB, 24GiB or 8GB, or 0")
    return size


def _bytes(text: str) -> int | None:
    """None: it is no size."""
    match = _QUANTITY.fullmatch(text.lower())
    return int(float(match[1]) * _BYTES[match[2]]) if match is not None and match[2] in _BYTES else None


def read_memory_limit(text: str) -> MemoryLimit:
    if not text.endswith("%"):
        try:
            return MemoryLimit(size=read_size(text))
        except ValueError:
            raise ValueError("must be a percentage such as 80%, or a size such as 24GiB") from None
    match = _QUANTITY.fullmatch(text.removesuffix("%"))
    percent = float(match[1]) if match is not None and not match[2] else 0.0
    if not 0 < percent <= 100:
        raise ValueError("must be more than 0% and at most 100%, or a size such as 24GiB")
    return MemoryLimit(percent=percent)


def read_share(text: str) -> float:
    """Of one: `5%` is 0.05."""
    match = _QUANTITY.fullmatch(text.removesuffix("%"))
    if match is None or match[2] or (not text.endswith("%") and float(match[1])) or float(match[1]) > 100:
        raise ValueError("must be a percentage from 0% to 100%, such as 5%")
    return float(match[1]) / 100


def read_flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError("must be true or false")
    return _FLAGS[text.lower()]


def read_switch(text: str) -> str:
    """`on` or `off`: a field of type bool would be a flag, which no value may follow on the command line."""
    try:
        return _show_flag(read_flag(text))
    except ValueError:
        raise ValueError("must be on or off") from None


def read_instances(text: str) -> int | None:
    """None: auto."""
    if text == "auto":
        return None
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or not int(text):
        raise ValueError("must be auto, or a number from 1")
    return int(text)


def read_upstream(text: str) -> UpstreamSpec:
    """`URL[,slots=K][,key-env=VAR][,overflow=true][,model=NAME][,api=NAME]`"""
    url, *parts = text.split(",")
    _check_url(url)
    given: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in _OF_AN_UPSTREAM or name in given:
            raise ValueError(f"after its URL only {_after_url()} may follow, each once")
        given[name] = value
    slots = given.get("slots", "1")
    if not re.fullmatch(r"\d{1,6}", slots, re.ASCII) or not int(slots):
        raise ValueError("slots must be a number from 1")
    key_env = given.get("key-env")
    if key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_env):
        raise ValueError("key-env must be the name of an environment variable")
    overflow = given.get("overflow", "false")
    if overflow not in ("true", "false"):
        raise ValueError("overflow must be true or false")
    model = given.get("model")
    if model is not None and not re.fullmatch(r"[!-~]{1,200}", model):
        raise ValueError("model must be the name of a model there")
    api = given.get("api")
    if api is not None and api not in _APIS:
        raise ValueError(f"api must be {' or '.join(_APIS)}")
    return UpstreamSpec(
        url=url,
        slots=int(slots),
        key_env=key_env,
        overflow=overflow == "true",
        model=model,
        api=None if api is None else Api(api),
    )


def _after_url() -> str:
    *first, last = (f"{name}={metavar}" for name, metavar in _OF_AN_UPSTREAM.items())
    return f"{', '.join(first)} and {last}"


def read_origin(text: str) -> str:
    """What a browser sends as Origin, or `*`."""
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", text):
        raise ValueError("must be * or an origin such as https://chat.example.org, without a path")
    return text


def read_key(text: str) -> str:
    """An API key, as it can stand in a header."""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be printable ASCII without blanks")
    return text


def read_path(text: str) -> Path:
    """A path; ~ is the user's home directory."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError(f"{text.split('/')[0]} is no home directory that is known here: write the whole path")
    return Path(path)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        found = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        raise ValueError(_URL_WANTED) from None
    if not found or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(_URL_WANTED)
    if parts.query or parts.fragment:
        raise ValueError("its URL may not have a query or a fragment")
    if parts.username is not None:
        raise ValueError("its URL may not hold a password: name a variable that holds the key, as in URL,key-env=VAR")


def _show_seconds(seconds: float) -> str:
    if seconds > 60 and seconds % 60 == 0:
        return f"{seconds / 60:.10g}m"
    return f"{seconds:.10g}s"


def _show_size(size: int) -> str:
    if not size:
        return "0"
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size % _BYTES[unit.lower()] == 0:
            return f"{size // _BYTES[unit.lower()]}{unit}"
    return str(size)


def _show_flag(given: bool) -> str:
    return "on" if given else "off"


def _show_memory_limit(limit: MemoryLimit) -> str:
    return f"{limit.percent:g}%" if limit.size is None else _show_size(limit.size)


TEXT = Kind(metavar="TEXT", read=str)
PATH = Kind(metavar="PATH", read=read_path)
TIME = duration(zero=False)
TIME_OR_ZERO = duration(zero=True)
SIZE = Kind(metavar="SIZE", read=read_size, show=_show_size)
SIZE_OR_ZERO = Kind(metavar="SIZE", read=read_size_or_zero, show=_show_size)
MEMORY_LIMIT = Kind(metavar="PERCENT|SIZE", read=read_memory_limit, show=_show_memory_limit)
SHARE = Kind(metavar="PERCENT", read=read_share, show=lambda share: f"{share * 100:g}%")
FLAG = Kind(metavar="", read=read_flag, show=_show_flag, flag=True)
SWITCH = Kind(metavar="on|off", read=read_switch)
INSTANCES = Kind(metavar="auto|N", read=read_instances)
UPSTREAM = Kind(
    metavar="URL" + "".join(f"[,{name}={metavar}]" for name, metavar in _OF_AN_UPSTREAM.items()), read=read_upstream
)
KEY = Kind(metavar="KEY", read=read_key)
ORIGIN = Kind(metavar="ORIGIN", read=read_origin)
