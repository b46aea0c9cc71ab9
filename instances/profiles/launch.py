"""From a profile and the user's settings to the command line and environment of one instance."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.processes import escaped, ports
from slotproxy.instances.profiles import context, detection, modes, named_files, own_arguments, selection
from slotproxy.instances.profiles.profile import Profile
from slotproxy.instances.settings import SupplySettings

HOST = "127.0.0.1"
STORE = "kv-store"  # of saved conversations, below the state directory


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

    @property
    def store(self) -> Path:
        """One for all instances of a proxy, beside the folder of their directories."""
        return self.directory.parent.parent / STORE


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
    pooling: str = modes.DEFAULT_POOLING  # how the model makes one embedding of its tokens' states
    has_store: bool = True  # there is a folder of saved conversations; else each instance saves into its own

    @property
    def uses_store(self) -> bool:
        return self.has_store and self.profile.shares_store

    def command(self, place: Place) -> tuple[str, ...]:
        """The user's own arguments come last: engines take the last of repeated options."""
        words = self._words(place)
        arguments = [*self.profile.args, *self._chosen()]
        return (*self.program, *(_fill(argument, words) for argument in arguments), *self.extra_args)

    def environment(self, place: Place, inherited: Mapping[str, str]) -> dict[str, str]:
        """`inherited` without what would silently change the engine, and what the profile sets."""
        words = self._words(place)
        ours = {name: _fill(value, words) for name, value in self.profile.env.items()}
        return self.profile.visible(inherited) | ours | {escaped.VARIABLE: str(place.directory)}

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
            "store": str(place.store if self.has_store else place.kv),
            "dir": str(place.directory),
            "threads": str(self.threads),
            "pooling": self.pooling,
        }


def threads(settings: SupplySettings) -> int:
    """Of each engine, so that all of them together have no more than there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    expected = settings.instances or min(settings.max_instances, max(2, cores // 2))
    return max(1, cores // expected)


async def prepare(settings: SupplySettings, facts: ModelFacts) -> Launch:
    """What every instance of `settings` has in common. Raises ConfigurationError."""
    profile = selection.choose(settings.engine, facts, settings.engine_bin)
    own_arguments.check(profile, settings.engine_args)
    found = selection.program(profile, settings.engine_bin)
    own = named_files.made_absolute(settings.engine_args, profile.files)
    shown = await _judged(profile, found, own)
    return Launch(
        profile=modes.applied(profile, own),
        program=found,
        model=facts.path if facts.kind == "name" else facts.path.absolute(),
        name=own_arguments.model_name(profile, own) or facts.name,
        ctx=context.wanted(profile, settings.ctx_size, facts.context, overridden=bool(settings.engine_args)),
        threads=threads(settings),
        trained=facts.context,
        extra_args=own,
        help_text=shown,
        pooling=facts.pooling or modes.DEFAULT_POOLING,
    )


async def _judged(profile: Profile, program: tuple[str, ...], own: tuple[str, ...]) -> str:
    """The engine's --help, as far as anything needs it. Raises ConfigurationError where it does not take `own`."""
    sentence = await detection.objection(profile, program, own)
    if sentence is not None:
        raise ConfigurationError(f"{profile.name} does not take what follows --: {sentence.rpartition('error: ')[2]}")
    shown = await detection.help_text(profile, program, wanted=bool(own) and profile.check is None)
    own_arguments.check_known(profile, own, shown)
    return shown


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
