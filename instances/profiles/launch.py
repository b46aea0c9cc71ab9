"""From a profile and the user's settings to the command line and environment of one instance."""

import asyncio
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotproxy.instances.profiles import context, own_arguments, catalog
from slotproxy.instances.processes import ports, escaped
from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.profiles.catalog import Profile
from slotproxy.instances.settings import SupplySettings

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
HELP_TIMEOUT = 20.0  # seconds
OURS = "SLOTPROXY_"  # environment variables of the proxy, API keys among them, are none of an engine's business
AUTOMATIC = {"gguf": ("embedded", "llama-server"), "directory": ("mlx_lm.server", "mlxcel-server", "vllm")}
"""What `auto` tries for each kind of model, in order of preference."""
KINDS = {"gguf": "a GGUF file", "directory": "a model directory", "name": "a model's name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What differs from instance to instance."""

    directory: Path
    port: int
    further_ports: tuple[int, ...] = ()  # where the profile asks for several

    @classmethod
    def find(cls, profile: Profile, directory: Path) -> "Place":
        """In `directory`, with ports that are free now. Raises OSError."""
        port = ports.free(HOST)
        return cls(directory=directory, port=port, further_ports=ports.beside(HOST, port, profile.ports - 1))

    @property
    def kv(self) -> Path:
        return self.directory / "kv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What all instances have in common."""

    profile: Profile
    program: tuple[str, ...]  # the executable, or our interpreter and a module
    model: Path
    name: str  # of the model in answers
    ctx: int
    threads: int
    trained: int | None = None  # tokens of context the model was trained for; None: not known
    extra_args: tuple[str, ...] = ()
    help_text: str = ""  # what the engine prints for --help, if a choice depends on it

    def command(self, place: Place) -> tuple[str, ...]:
        """The user's own arguments come last: engines take the last of repeated options."""
        words = self._words(place)
        arguments = [*self.profile.args, *self._chosen()]
        return (*self.program, *(_fill(argument, words) for argument in arguments), *self.extra_args)

    def environment(self, place: Place, inherited: Mapping[str, str]) -> dict[str, str]:
        """`inherited` without what would silently change the engine, and what the profile sets."""
        words = self._words(place)
        ours = {name: _fill(value, words) for name, value in self.profile.env.items()}
        return scrub(self.profile, inherited) | ours | {escaped.VARIABLE: str(place.directory)}

    def cwd(self, place: Place) -> Path:
        return Path(_fill(self.profile.cwd, self._words(place))) if self.profile.cwd else place.directory

    def warm_up_body(self, place: Place) -> Any:
        return _fill_all(self.profile.warm_up.body, self._words(place))

    def model_for_requests(self) -> str | None:
        """The model every request is to name; None: the one its client names."""
        named = self.profile.http.model
        return None if named is None else _fill(named, {"model": str(self.model), "name": self.name})

    def _chosen(self) -> Iterable[str]:
        for options in self.profile.options:
            yield from options.args if options.flag in self.help_text else options.otherwise

    def _words(self, place: Place) -> dict[str, str]:
        return {
            "model": str(self.model),
            "parent": str(self.model.parent),
            "name": self.name,
            "host": HOST,
            "port": str(place.port),
            **{f"port{number}": str(port) for number, port in enumerate(place.further_ports, start=2)},
            "ctx": str(self.ctx),
            "kv": str(place.kv),
            "dir": str(place.directory),
            "threads": str(self.threads),
        }


def choose(engine: str, model: ModelFacts, engine_bin: str | None) -> Profile:
    """The profile `engine` names, or for `auto` the one that fits. Raises ConfigurationError."""
    profile = catalog.load(engine) if engine != "auto" else _automatic(model, engine_bin)
    if model.kind not in profile.models:
        kinds = " or ".join(KINDS[kind] for kind in profile.models)
        raise ConfigurationError(
            f"the engine {profile.name} needs {kinds}, which {model.path} is not; give --model one"
        )
    return profile


def scrubbed(profile: Profile) -> tuple[str, ...]:
    """Prefixes of the environment variables that its engines must not inherit."""
    return (*profile.scrub, OURS)


def scrub(profile: Profile, inherited: Mapping[str, str]) -> dict[str, str]:
    """`inherited` as an engine may see it."""
    unwanted = scrubbed(profile)
    return {n: value for n, value in inherited.items() if n in profile.keep or not n.startswith(unwanted)}


def threads(settings: SupplySettings) -> int:
    """Of each engine, so that all of them together have no more than there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    expected = settings.instances or min(settings.max_instances, max(2, cores // 2))
    return max(1, cores // expected)


def takes_names(engine: str) -> bool:
    """Whether `--model` may be a name that the engine itself resolves, instead of a path. Raises ConfigurationError."""
    return engine != "auto" and "name" in catalog.load(engine).models


async def plan(settings: SupplySettings, facts: ModelFacts) -> Launch:
    """What every instance of `settings` has in common. Raises ConfigurationError."""
    profile = choose(settings.engine, facts, settings.engine_bin)
    check_arguments(profile, settings.engine_args)
    found = program(profile, settings.engine_bin)
    return Launch(
        profile=profile,
        program=found,
        model=facts.path if facts.kind == "name" else facts.path.absolute(),
        name=facts.name,
        ctx=context.wanted(profile, settings.ctx_size, facts.context, overridden=bool(settings.engine_args)),
        threads=threads(settings),
        trained=facts.context,
        extra_args=settings.engine_args,
        help_text=await help_text(profile, found),
    )


def check_arguments(profile: Profile, given: Sequence[str]) -> None:
    """Raises ConfigurationError where the user's own arguments are not theirs to set."""
    chosen = [argument for options in profile.options for argument in (*options.args, *options.otherwise)]
    sentence = own_arguments.refusal(given, [*profile.args, *chosen], profile.reserved)
    if sentence is not None:
        raise ConfigurationError(sentence)


def cautions(profile: Profile, *, instances: int | None, ctx_size: int | None) -> Iterator[str]:
    """Sentences about what is allowed and seldom sensible with this engine."""
    if profile.batching is not None and profile.sole and instances != 1:
        yield (
            f"{profile.name} can work on several requests at a time in one process, and its processes do not share the "
            f"model: rather than several instances, start one yourself with {profile.batching.how} and give it as "
            "--upstream URL,slots=K"
        )
    if ctx_size is not None and not profile.takes_ctx:
        yield f"{profile.name} cannot be told how much context a request may have: --ctx-size has no effect"


def program(profile: Profile, engine_bin: str | None) -> tuple[str, ...]:
    """How to run the engine of `profile`. Raises ConfigurationError when it is not installed."""
    if profile.module is not None:
        return _module_program(profile, engine_bin)
    wanted = str(Path(engine_bin).expanduser()) if engine_bin else profile.executable or ""
    found = shutil.which(wanted)
    if found is None and engine_bin:
        raise ConfigurationError(f"{engine_bin} is not an executable file; check --engine-bin")
    if found is None:
        raise ConfigurationError(f"the engine {profile.name} is not installed: {profile.install}")
    return (os.path.abspath(found),)


async def help_text(profile: Profile, program: tuple[str, ...]) -> str:
    """What the engine prints for --help when the profile asks for it, else nothing."""
    if not profile.options:
        return ""
    try:
        process = await asyncio.create_subprocess_exec(
            *program, "--help", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise ConfigurationError(f"{program[0]} cannot be run: {error.strerror}; check --engine-bin") from None
    try:
        async with asyncio.timeout(HELP_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        logger.warning("%s --help does not end; taking its newest options for granted", program[0])
        return " ".join(options.flag for options in profile.options)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")


def _automatic(model: ModelFacts, engine_bin: str | None) -> Profile:
    if engine_bin is not None:
        return _by_executable(engine_bin)
    for name in AUTOMATIC[model.kind]:
        profile = catalog.load(name)
        if missing(profile) is None:
            return profile
    if model.kind == "gguf":
        advice = "pip install 'slotproxy[embedded]', or install llama.cpp's llama-server"
    else:
        advice = f"install one of {', '.join(AUTOMATIC[model.kind])}, or name another with --engine"
    raise ConfigurationError(f"no engine for {KINDS[model.kind]} is installed; {advice}")


def _by_executable(engine_bin: str) -> Profile:
    shipped = [catalog.load(name) for name in catalog.names()]
    fitting = (profile for profile in shipped if profile.executable == Path(engine_bin).name)
    return next(fitting, None) or catalog.load("llama-server")


def _module_program(profile: Profile, engine_bin: str | None) -> tuple[str, ...]:
    if engine_bin is not None:
        raise ConfigurationError(
            f"the engine {profile.name} has no executable of its own; leave out --engine-bin or choose another --engine"
        )
    needed = profile.requires or profile.module or ""
    if importlib.util.find_spec(needed) is None:
        raise ConfigurationError(f"the engine {profile.name} is not installed: {profile.install}")
    return run_module(profile.module or "")


def missing(profile: Profile, engine_bin: str | None = None) -> str | None:
    """Why the engine of `profile` cannot be run here; None: it can.

    Raises ConfigurationError for a wrong `engine_bin`.
    """
    try:
        program(profile, engine_bin)
    except ConfigurationError as error:
        if engine_bin is not None:
            raise
        return str(error)
    return None


def run_module(module: str) -> tuple[str, ...]:
    """By our own interpreter. -P: the working directory is the instance's own and must not be searched for modules."""
    return (sys.executable, "-P", "-m", module)


def _fill(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace("{" + word + "}", value)
    return text


def _fill_all(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _fill(value, words)
    if isinstance(value, dict):
        return {key: _fill_all(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_all(item, words) for item in value]
    return value
