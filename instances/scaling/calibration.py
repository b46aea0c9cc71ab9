"""What `--instances auto` found out, kept in the state directory so that the next start need not find it out again.

A result holds for one combination of model file, engine, arguments, machine and limits: its fingerprint. Anything that
differs is another fingerprint, so a result is never wrong, only missing.
"""

import os
import platform
from pathlib import Path

import msgspec

from slotproxy.instances.processes import results
from slotproxy.instances.profiles import fingerprint as fingerprints
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.readings import Total
from slotproxy.instances.settings import SupplySettings

FILE = "calibration.json"


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
    circumstances = {
        "machine": [platform.system(), platform.machine(), os.cpu_count(), total.size],
        "limit": [settings.memory_limit.within(total.size), settings.memory_metric],
        "rules": [settings.max_instances, settings.min_gain],
    }
    return fingerprints.digest(fingerprints.facts(launch) | circumstances)


def load(state_dir: Path, key: str) -> Calibration | None:
    """The result kept under the fingerprint `key`, if there is one."""
    return results.read(state_dir / FILE, dict[str, Calibration]).get(key)


def keep(state_dir: Path, key: str, result: Calibration) -> None:
    """Remember `result`. A state directory that cannot be written costs the next start some seconds, nothing else."""
    otherwise = "the next start will measure again"
    results.keep(state_dir / FILE, dict[str, Calibration], key, result, otherwise=otherwise)
