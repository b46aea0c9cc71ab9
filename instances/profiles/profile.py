"""What a profile says of its engine, as frozen values. Pure: `catalog` reads the files.

In `args`, `env`, `cwd`, the warm-up's body and the model's name for requests the words of PLACES, in braces, stand for
what one instance gets.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from slotproxy.instances.failures import Cause

PLACES = (
    *("model", "parent", "name", "host", "port", "port2", "port3", "ctx", "kv", "store", "dir", "threads", "pooling"),
)
OURS = "SLOTPROXY_"  # environment variables of the proxy, API keys among them, are none of an engine's business
_PORTS = {"port2": 2, "port3": 3}
_WORD = re.compile(r"\{(\w+)\}")
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


class Mode(_Table, frozen=True, kw_only=True):
    """What else holds when the user's own arguments have one of `flags`; of several modes the first."""

    flags: tuple[str, ...]
    args: tuple[str, ...] = ()  # before the user's, which therefore count more
    warm_up: WarmUp


class Context(_Table, frozen=True, kw_only=True):
    """How the context of a request follows from the engine's own setting, and where the engine tells it."""

    path: Path_ | None = None  # None: the engine does not tell
    pointer: str = ""  # JSON pointer to the tokens of one slot, such as /data/0/meta/n_ctx
    divided: bool = False  # several slots of one process would share {ctx}; a single one has all of it
    capped: bool = False  # never more than the model was trained for, whatever is asked
    multiple: Annotated[int, msgspec.Meta(ge=1)] = 1  # tokens; the engine rounds up to a multiple of this
    note: str = ""


class Idle(_Table, frozen=True, kw_only=True):
    """How to learn that an abandoned request no longer occupies the engine.

    `slots`: GET `path` in llama-server's shape until nothing is processing. `generation`: the warm-up request, again
    until it succeeds; a serial engine answers it only after what it was doing. `delay`: the engine notices by itself
    within `first` seconds.
    """

    kind: Literal["slots", "generation", "delay"]
    path: Path_ = "/slots"
    first: Seconds = 0.12  # wait before the first look, or the whole delay
    first_unstreamed: Seconds = 1.15  # the same for a request that was not a stream
    every: Annotated[float, msgspec.Meta(ge=0.05)] = 1.6  # between looks
    limit: Seconds = 60.0  # then the instance is restarted
    note: str = ""  # what the engine does when a client disconnects


class Watch(_Table, frozen=True, kw_only=True):
    """When an engine that lives is taken for hung, whether it has a request or not."""

    silence: Seconds = 60.0  # without an answer to its readiness path, a line of log or CPU time; 0: it is never


class Stop(_Table, frozen=True, kw_only=True):
    """TERM, wait `term`, TERM again, wait `again`, KILL; each to the whole process group."""

    term: Seconds = 5.0
    again: Seconds = 3.0
    note: str = ""


class Http(_Table, frozen=True, kw_only=True):
    """What the relay must know of this engine's HTTP."""

    keepalive: Seconds = 0.0  # idle connections may be used again for so long; 0: one request per connection
    drop_headers: tuple[str, ...] = ()
    write_stall: Seconds = 0.0  # the engine drops a stream that is not read for so long; 0: it waits
    slotless: tuple[str, ...] = ()  # what it answers beside its slot, so that it needs no lease
    model: str | None = None  # sent as the model of every request; None: what the client says


class Lock(_Table, frozen=True, kw_only=True):
    """Who holds `engine.lock`. One process must: two descriptors of one file would exclude each other."""

    holder: Literal["supervisor", "engine"] = "supervisor"


class Memory(_Table, frozen=True, kw_only=True):
    """Whether processes of this engine share the model's pages."""

    shared: bool
    note: str = ""


class Batching(_Table, frozen=True, kw_only=True):
    """The engine can work on several requests at a time in one process."""

    how: str  # what tells it to, such as "--max-num-seqs K"
    note: str = ""


class Kv(_Table, frozen=True, kw_only=True):
    """How what an engine has computed of a conversation gets into another instance of it.

    `slots`: POST `path`?action=save, restore and erase, as llama-server has them; the engine writes and reads the file
    in its folder {store}. `files`: it keeps files `<sha1>.kv` in {kv} by itself and takes what it finds there. `none`:
    not at all.
    """

    how: Literal["none", "slots", "files"] = "none"
    path: Path_ = "/slots/0"
    complete: Path_ = "/completion"  # computes a text, and tells how much of it was cached in timings.cache_n
    note: str = ""


class Fatal(_Table, frozen=True, kw_only=True):
    """A line of the engine's log, or of its answer to the warm-up, that says why it cannot go on."""

    pattern: str
    kind: Cause


class Profile(_Table, frozen=True, kw_only=True):
    """Everything that is particular to one engine."""

    name: str
    summary: str
    install: str  # what to do when it is missing: "install ..."
    models: tuple[Literal["gguf", "directory", "name"], ...]  # name: one that the engine itself resolves
    executable: str | None = None  # looked up on PATH; or
    module: str | None = None  # run by our own interpreter
    requires: str | None = None  # Python package that must be importable for it
    args: tuple[str, ...]
    options: tuple[Options, ...] = ()
    modes: tuple[Mode, ...] = ()
    check: str | None = None  # as its first argument: it only judges the others, with a line and exit status 2
    files: dict[str, Literal["gguf", "any"]] = {}  # arguments of the user's that name files to be there, and their kind
    env: dict[str, str] = {}
    scrub: tuple[str, ...] = ()  # prefixes of inherited environment variables the engine must not see
    keep: tuple[str, ...] = ()  # variables it may see although `scrub` names them
    cwd: str | None = None  # None: the instance's directory
    ctx: Annotated[int, msgspec.Meta(ge=512)] = 4096  # tokens, unless --ctx-size says otherwise
    ready: Ready = Ready()
    warm_up: WarmUp
    context: Context = Context()
    models_path: Annotated[str, msgspec.Meta(pattern="^(/.*)?$")] = "/v1/models"  # "": only the one served is listed
    idle: Idle
    watch: Watch = Watch()
    stop: Stop = Stop()
    http: Http = Http()
    lock: Lock = Lock()
    memory: Memory
    batching: Batching | None = None
    kv: Kv = Kv()
    fatal: tuple[Fatal, ...] = ()
    names: tuple[str, ...] = ()  # arguments of the user's that say what the model is called
    reserved: dict[str, str] = {}  # arguments a user may not add, and the option of slotproxy to use instead

    @property
    def ports(self) -> int:
        """How many ports an instance needs."""
        return max((_PORTS.get(word, 1) for word in self.placeholders), default=1)

    @property
    def shares_store(self) -> bool:
        """Whether instances of the engine are given one folder for all of them."""
        return "store" in self.placeholders

    @property
    def takes_ctx(self) -> bool:
        """Whether the engine can be told how much context a request may have."""
        return "ctx" in self.placeholders

    @property
    def context_rule(self) -> Literal["divided", "each", "unlimited"]:
        """What each of several slots in one process would have of the context that the engine is told."""
        if not self.takes_ctx:
            return "unlimited"
        return "divided" if self.context.divided else "each"

    @property
    def better_in_one_process(self) -> bool:
        """Whether one process that batches is better than several: they would not share the model."""
        return self.batching is not None and not self.memory.shared

    @property
    def hidden_prefixes(self) -> tuple[str, ...]:
        """Of the environment variables that the engine must not inherit."""
        return (*self.scrub, OURS)

    def visible(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What of `environment` the engine may inherit."""
        hidden = self.hidden_prefixes
        return {name: value for name, value in environment.items() if name in self.keep or not name.startswith(hidden)}

    @property
    def placeholders(self) -> set[str]:
        """The words in braces, of PLACES or not."""
        chosen = (argument for options in self.options for argument in options.args + options.otherwise)
        modes = (argument for mode in self.modes for argument in mode.args)
        texts = (*self.args, *self.env.values(), *chosen, *modes, self.cwd or "", self.http.model or "")
        return {word for text in texts for word in _WORD.findall(text)}
