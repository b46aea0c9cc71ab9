"""What `--instances auto` found out, kept in the state directory so that the next start need not find it out again.

A result holds for one combination of model file, engine, arguments, machine and limits: its fingerprint. Anything that
differs is another fingerprint, so a result is never wrong, only missing.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import msgspec

from slotproxy.instances.profiles.launch import Launch, Place
from slotproxy.instances.readings import Total
from slotproxy.instances.settings import SupplySettings

logger = logging.getLogger(__name__)

FILE = "calibration.json"
KEPT = 32  # results; the oldest go first
NOWHERE = Place(directory=Path("/instance"), port=0)


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A result. Sizes are bytes."""

    instances: int
    reason: str  # why there are no more: "memory", "pressure", "engine-oom", "no-gain" or "max-instances"
    sentence: str  # the same for people, with the numbers
    metric: str  # what was governed: "resident", "wired" or "vram"
    cost: int  # of one more instance
    used: int  # by all of them together, at its highest
    limit: int
    rates: tuple[float, ...] = ()  # tokens per second of 1, 2, ... instances together; 0: not measured
    at: float  # seconds since 1970


def fingerprint(launch: Launch, settings: SupplySettings, total: Total) -> str:
    """Of all that a result depends on. Looks at the model file and the engine's executable."""
    facts = {
        "model": [str(launch.model), *_identity(launch.model)],
        "engine": [launch.profile.name, _version(launch), launch.help_text],
        "command": launch.command(NOWHERE),
        "environment": launch.environment(NOWHERE, {}),
        "machine": [platform.system(), platform.machine(), os.cpu_count(), total.size],
        "limit": [settings.memory_limit.within(total.size), settings.memory_metric],
        "rules": [settings.max_instances, settings.min_gain],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load(state_dir: Path, key: str) -> Calibration | None:
    """The result kept under the fingerprint `key`, if there is one."""
    return _read(state_dir / FILE).get(key)


def keep(state_dir: Path, key: str, result: Calibration) -> None:
    """Remember `result`. A state directory that cannot be written costs the next start some seconds, nothing else."""
    results = {name: one for name, one in _read(state_dir / FILE).items() if name != key} | {key: result}
    newest = sorted(results.items(), key=lambda item: item[1].at)[-KEPT:]
    path = state_dir / FILE
    draft = path.with_suffix(".tmp")
    try:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(dict(newest)), indent=2) + b"\n")
        os.replace(draft, path)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the next start will measure again", path, error.strerror)


def _read(path: Path) -> dict[str, Calibration]:
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(BOM_UTF8), type=dict[str, Calibration])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:  # cut off, or of another version of slotproxy
        logger.info("%s is not used: %s", path, error)
        return {}


def _identity(path: Path) -> list[Any]:
    """Of a file, or of the files in a directory: another content has another size or time."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [[file.name, state.st_size, state.st_mtime_ns] for file in files for state in [file.stat()]]
    except OSError:
        return []


def _version(launch: Launch) -> list[Any]:
    """Of the engine: its package's, or else the identity of its executable."""
    package = launch.profile.requires or launch.profile.module
    if package is not None:
        try:
            return [importlib.metadata.version(package.split(".")[0])]
        except importlib.metadata.PackageNotFoundError:
            pass
    return _identity(Path(launch.program[0]).resolve())
