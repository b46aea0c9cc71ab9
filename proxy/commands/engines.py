"""`slotproxy engines`: the profiles, or one of them as it would be run here."""

import asyncio
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from slotproxy.instances.errors import ModelError
from slotproxy.instances.models import demo, model
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.processes.statedir import StateDir
from slotproxy.instances.profiles import catalog, context, detection, launch, own_arguments, selection
from slotproxy.instances.profiles.detection import Detection
from slotproxy.instances.profiles.launch import Launch, Place
from slotproxy.instances.profiles.profile import Profile
from slotproxy.proxy.commands.terminal import Page, print_json
from slotproxy.proxy.options.config import DEMO, Settings

KINDS = {"gguf": "GGUF file", "directory": "directory", "name": "name"}
SHARES = {"divided": "C/K", "each": "C", "unlimited": "no limit"}
RULES = (
    "An engine with K slots that is told C tokens of context divides them (C/K), or gives each slot all of them (C). "
    "Instances have one slot each, and so C tokens either way."
)
NO_MODEL = Path("MODEL")  # where none was named and the demo model does not suit the engine


def run(settings: Settings, engine: str | None, *, as_json: bool) -> int:
    """Print the list, or what is known of `engine`; the exit code. Raises ConfigurationError."""
    if engine is None:
        return _list(as_json=as_json)
    profile = catalog.load(engine)
    own_arguments.check(profile, settings.engine_args)
    found = asyncio.run(detection.detect(profile, settings.engine_bin))
    plan = _plan(settings, profile, found)
    place = Place.find(profile, StateDir(settings.state_path).instance(0))
    if as_json:
        print_json(document(found, plan, place))
    else:
        _show(found, plan, place)
    return 0


def _list(*, as_json: bool) -> int:
    shipped = [catalog.load(name) for name in catalog.names()]
    if as_json:
        print_json([_row(profile) for profile in shipped])
        return 0
    page = Page()
    page.table(
        [_columns(profile) for profile in shipped],
        heads=("engine", "models", "shares memory", "batches", "context", "of K slots each", "installed"),
    )
    page.line()
    page.line(RULES)
    page.line("slotproxy engines NAME shows one of them. --engine takes a name, or the path of a profile of your own.")
    page.show()
    return 0


def _row(profile: Profile) -> dict[str, Any]:
    missing = selection.missing(profile)
    return {
        "name": profile.name,
        "summary": profile.summary,
        "models": list(profile.models),
        "shares_memory": profile.memory.shared,
        "batches": None if profile.batching is None else profile.batching.how,
        "context": profile.ctx,
        "context_rule": profile.context_rule,
        "installed": missing is None,
        "missing": missing,
    }


def _columns(profile: Profile) -> tuple[str, ...]:
    kinds = " or ".join(KINDS.get(kind, kind) for kind in profile.models)
    installed = "yes" if selection.missing(profile) is None else "no"
    context = f"{profile.ctx} tokens"
    return (
        profile.name,
        kinds,
        _yes(profile.memory.shared),
        _batches(profile),
        context,
        SHARES[profile.context_rule],
        installed,
    )


def _batches(profile: Profile) -> str:
    return "no" if profile.batching is None else f"with {profile.batching.how}"


def _plan(settings: Settings, profile: Profile, found: Detection) -> Launch:
    """What an instance would be started with; the model need not be there."""
    facts = _facts(settings, profile)
    path = facts.path if facts.kind == "name" else facts.path.absolute()
    return Launch(
        profile=profile,
        program=found.program,
        model=path,
        name=facts.name,
        ctx=context.wanted(profile, settings.ctx_size, facts.context, overridden=bool(settings.engine_args)),
        threads=launch.threads(settings.supply(path)),
        trained=facts.context,
        extra_args=settings.engine_args,
        help_text=found.help_text,
    )


def _facts(settings: Settings, profile: Profile) -> ModelFacts:
    unnamed = settings.model is None or settings.model == DEMO
    if unnamed and "gguf" not in profile.models:
        return ModelFacts(path=NO_MODEL, name=str(NO_MODEL), kind="name", size=0)
    try:
        path = demo.location() if unnamed else settings.model_path
    except ModelError:  # no home directory, and so no cache
        path = NO_MODEL
    try:
        return model.check(path, names="name" in profile.models)
    except ModelError:
        return ModelFacts(path=path, name=path.name.removesuffix(".gguf"), kind="gguf", size=0)


def document(found: Detection, plan: Launch, place: Place) -> dict[str, Any]:
    """One profile for programs."""
    return {
        "name": plan.profile.name,
        "summary": plan.profile.summary,
        "installed": found.missing is None,
        "missing": found.missing,
        "version": found.version,
        "options": {options.flag: options.flag in found.help_text for options in plan.profile.options},
        "instance": {
            "command": list(plan.command(place)),
            "environment": {"set": _set(plan, place), "removed": _removed(plan, place)},
            "cwd": str(plan.cwd(place)),
        },
        "profile": msgspec.to_builtins(plan.profile),
    }


def _show(found: Detection, plan: Launch, place: Place) -> None:
    profile, page = plan.profile, Page()
    page.line(f"{profile.name}: {profile.summary}", style="bold")
    page.line()
    page.table(_what(found, profile))
    page.line()
    page.line("The command of instance 0 (its port is chosen when it starts):", style="bold")
    page.exact(shlex.join(plan.command(place)))
    page.line()
    page.line(f"It runs in {plan.cwd(place)}, with your environment and these changes:", style="bold")
    for name, value in _set(plan, place).items():
        page.exact(shlex.join([f"{name}={value}"]))
    kept = f" (except {', '.join(profile.keep)})" if profile.keep else ""
    page.line(f"without {', '.join(f'{prefix}*' for prefix in profile.hidden_prefixes)}{kept}")
    page.line()
    page.line("The profile:", style="bold")
    for key, value in _flat(msgspec.to_builtins(profile)):
        page.exact(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    page.show()


def _what(found: Detection, profile: Profile) -> Iterator[tuple[str, str]]:
    yield "installed", "yes" if found.missing is None else f"no: {found.missing}"
    if found.missing is None:
        yield "version", found.version or "it does not say"
    yield "models", " or ".join(KINDS.get(kind, kind) for kind in profile.models)
    note = f": {profile.memory.note}" if profile.memory.note else ""
    yield "shares memory", _yes(profile.memory.shared) + note
    yield "batches", _batches(profile) + (": better than several instances" if profile.better_in_one_process else "")
    yield (
        "context",
        f"{profile.ctx} tokens, unless --ctx-size says otherwise: {profile.context.note or 'for each slot'}",
    )
    yield "a client leaves", profile.idle.note or "not known"
    yield (
        "a stop takes",
        f"at most {profile.stop.term + profile.stop.again:g} s, then it is killed"
        + (f": {profile.stop.note}" if profile.stop.note else ""),
    )
    for options in profile.options:
        has = options.flag in found.help_text
        given = shlex.join(options.args if has else options.otherwise) or "nothing"
        source = "its --help has it" if found.missing is None else "assumed"
        yield options.flag, f"{f'yes ({source})' if has else 'no'}: it is given {given}"


def _set(plan: Launch, place: Place) -> dict[str, str]:
    return plan.environment(place, {})


def _removed(plan: Launch, place: Place) -> list[str]:
    """Names only: the values may be keys."""
    return sorted(os.environ.keys() - plan.environment(place, os.environ).keys())


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in (None, (), [], {}):
            yield f"{prefix}{key}", value


def _yes(given: bool) -> str:
    return "yes" if given else "no"
