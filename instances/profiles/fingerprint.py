"""What an engine is in every respect that can change what it does: the model, its build, its arguments.

What was found out about one, or computed by one, holds for engines with the same fingerprint. Anything that differs
is another fingerprint, so a result is never wrong, only missing.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slotproxy.instances.profiles.launch import Launch, Place

NOWHERE = Place(directory=Path("/state/instances/0"), port=0)


def of_build(launch: Launch) -> str:
    """The fingerprint of engines that can go on with each other's conversations.

    Looks at the model file and the engine's executable: for a thread. How many threads compute changes nothing.
    """
    return digest(facts(replace(launch, threads=1)) | {"machine": [platform.system(), platform.machine()]})


def facts(launch: Launch) -> dict[str, Any]:
    """Of the engine itself. Looks at the model file and the engine's executable."""
    return {
        "model": [str(launch.model), *_identity(launch.model)],
        "engine": [launch.profile.name, _version(launch), launch.help_text],
        "command": launch.command(NOWHERE),
        "environment": launch.environment(NOWHERE, {}),
    }


def digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
