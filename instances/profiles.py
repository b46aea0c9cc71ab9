"""Engine profiles: one TOML file per engine, shipped in `engines/` or the user's own, read into frozen values.

Unknown tables and keys are errors that name the file and the key. In `args`, `env` and the warm-up's body the words
{model} {name} {host} {port} {ctx} {kv} {dir} {threads} stand for what one instance gets.
"""

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.failures import Cause

PLAIN = {"Object contains unknown field": "unknown key", "Object missing required field": "missing key", "`": "'"}
PLACES = ("model", "name", "host", "port", "ctx", "kv", "dir", "threads")
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Path_ = Annotated[str, msgspec.Meta(pattern="^/")]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """msgspec's Struct instead of a dataclass: only it can refuse unknown keys. (`kw_only` is not inherited.)"""


class Options(_Table, frozen=True, kw_only=True):
    """Arguments that depend on the engine's version."""

    flag: str  # looked for in what the engine prints for --help
    args: tuple[str, ...] = ()  # when it is there
    otherwise: tuple[str, ...] = ()  # when it is not


class Ready(_Table, frozen=True, kw_only=True):
    """An instance is ready when all that is given here holds, its process lives and owns the port."""

    path: Path_ | None = "/health"  # None: only the banner counts
    status: int = 200
    banner: str | None = None  # regular expression found in one line of the engine's log
    timeout: Seconds = 1800.0


class WarmUp(_Table, frozen=True, kw_only=True):
    """The first generation, our own."""

    path: Path_ = "/v1/chat/completions"
    body: dict[str, Any]
    timeout: Seconds = 600.0


class Context(_Table, frozen=True, kw_only=True):
    """Where the engine tells the context of one slot."""

    path: Path_
    pointer: str  # JSON pointer, such as /data/0/meta/n_ctx


class Idle(_Table, frozen=True, kw_only=True):
    """How to learn that an abandoned request no longer occupies the engine.

    `slots`: GET `path` in llama-server's shape until nothing is processing. `generation`: the warm-up request again; a
    serial engine answers it only after what it was doing. `delay`: the engine notices by itself within `first` seconds.
    """

    kind: Literal["slots", "generation", "delay"]
    path: Path_ = "/slots"
    first: Seconds = 0.12  # wait before the first look, or the whole delay
    first_unstreamed: Seconds = 1.15  # the same for a request that was not a stream
    every: Annotated[float, msgspec.Meta(ge=0.05)] = 1.6  # between looks
    limit: Seconds = 60.0  # then the instance is restarted


class Stop(_Table, frozen=True, kw_only=True):
    """TERM, wait `term`, TERM again, wait `again`, KILL; each to the whole process group."""

    term: Seconds = 5.0
    again: Seconds = 3.0


class Http(_Table, frozen=True, kw_only=True):
    """What the relay must know of this engine's HTTP."""

    keepalive: Seconds = 0.0  # idle connections may be used again for so long; 0: one request per connection
    drop_headers: tuple[str, ...] = ()
    write_stall: Seconds = 0.0  # the engine drops a stream that is not read for so long; 0: it waits


class Lock(_Table, frozen=True, kw_only=True):
    """Who holds `engine.lock`. One process must: two descriptors of one file would exclude each other."""

    holder: Literal["supervisor", "engine"] = "supervisor"


class Memory(_Table, frozen=True, kw_only=True):
    """Whether processes of this engine share the model's pages."""

    shared: bool
    note: str = ""


class Fatal(_Table, frozen=True, kw_only=True):
    """A line of the engine's log that says why it cannot go on."""

    pattern: str
    kind: Cause


class Profile(_Table, frozen=True, kw_only=True):
    """Everything that is particular to one engine."""

    name: str
    summary: str
    install: str  # what to do when it is missing: "install ..."
    models: tuple[Literal["gguf", "directory"], ...]
    executable: str | None = None  # looked up on PATH; or
    module: str | None = None  # run by our own interpreter
    requires: str | None = None  # Python package that must be importable for it
    args: tuple[str, ...]
    options: tuple[Options, ...] = ()
    env: dict[str, str] = {}
    scrub: tuple[str, ...] = ()  # prefixes of inherited environment variables the engine must not see
    cwd: str | None = None  # None: the instance's directory
    ctx: Annotated[int, msgspec.Meta(ge=512)] = 4096  # tokens, unless --ctx-size says otherwise
    ready: Ready = Ready()
    warm_up: WarmUp
    context: Context | None = None
    models_path: Path_ = "/v1/models"
    idle: Idle
    stop: Stop = Stop()
    http: Http = Http()
    lock: Lock = Lock()
    memory: Memory
    fatal: tuple[Fatal, ...] = ()


def names() -> tuple[str, ...]:
    """Names of the profiles that come with slotproxy."""
    files = (entry.name for entry in _shipped().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def load(engine: str) -> Profile:
    """The profile of that name, or in the file at that path. Raises ConfigurationError."""
    if "/" in engine or engine.endswith(".toml"):
        return _read(Path(engine).expanduser())
    if engine not in names():
        raise ConfigurationError(
            f"there is no engine profile {engine!r}; known are {', '.join(names())}, or give the path of a profile file"
        )
    return parse((_shipped() / f"{engine}.toml").read_text(encoding="utf-8"), f"{engine}.toml")


def parse(text: str, file: str) -> Profile:
    """Raises ConfigurationError that names `file` and the key."""
    try:
        profile = msgspec.convert(tomllib.loads(text), Profile)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"engine profile {file} is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"engine profile {file}: {_plain(str(error))}") from None
    _check(profile, file)
    return profile


def _shipped() -> Any:
    return resources.files("slotproxy.instances") / "engines"


def _read(path: Path) -> Profile:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"the engine profile {path} does not exist; check --engine") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the engine profile {path} cannot be read: {error}") from None
    return parse(text, str(path))


def _plain(message: str) -> str:
    """msgspec's words for a user: the place first, without its `$.` notation."""
    what, _, where = message.partition(" - at ")
    for theirs, ours in PLAIN.items():
        what = what.replace(theirs, ours)
    where = where.strip("`").removeprefix("$").removeprefix(".")
    return f"in {where}: {what}" if where else what


def _check(profile: Profile, file: str) -> None:
    if (profile.executable is None) == (profile.module is None):
        raise ConfigurationError(f"engine profile {file}: give either 'executable' or 'module'")
    for pattern in [fatal.pattern for fatal in profile.fatal] + [profile.ready.banner or ""]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigurationError(f"engine profile {file}: bad pattern {pattern!r}: {error}") from None
    texts = [*profile.args, *profile.env.values(), *(a for o in profile.options for a in o.args + o.otherwise)]
    for word in re.findall(r"\{(\w+)\}", " ".join(texts)):
        if word not in PLACES:
            known = ", ".join(PLACES)
            raise ConfigurationError(f"engine profile {file}: unknown placeholder {{{word}}}; known are {known}")
    if profile.ready.path is None and profile.ready.banner is None:
        raise ConfigurationError(f"engine profile {file}: [ready] needs 'path' or 'banner'")
