"""NVIDIA GPUs, through NVML (the package nvidia-ml-py, `slotproxy[nvidia]`), which is loaded when it is first asked."""

import importlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from slotproxy.instances.readings import Reading


def usable() -> bool:
    """Whether there is a GPU to read, and the package to read it with."""
    return bool(_devices())


def total() -> int:
    """Bytes of all GPUs together. Raises OSError when the driver does not answer."""
    with _as_oserror():
        return sum(int(_nvml().nvmlDeviceGetMemoryInfo(device).total) for device in _devices())


def free() -> int:
    """Bytes of all GPUs that nobody uses. Raises OSError when the driver does not answer."""
    with _as_oserror():
        return sum(int(_nvml().nvmlDeviceGetMemoryInfo(device).free) for device in _devices())


def with_vram(reading: Reading, pids: Collection[int]) -> Reading:
    """`reading` and what the processes `pids` hold on all GPUs."""
    return replace(reading, vram=used_by(pids))


def used_by(pids: Collection[int]) -> int:
    """Bytes on all GPUs. A driver that does not tell a process's share (some containers, Windows) says None: 0.

    Raises OSError when the driver does not answer.
    """
    with _as_oserror():
        running = [one for device in _devices() for one in _nvml().nvmlDeviceGetComputeRunningProcesses(device)]
    return sum(int(process.usedGpuMemory or 0) for process in running if process.pid in pids)


@contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except _nvml().NVMLError as error:  # a GPU that was lost, a driver that was exchanged
        raise OSError(f"NVML: {error}") from None


@cache
def _devices() -> tuple[Any, ...]:
    """Handles of the GPUs that engines may use, as CUDA_VISIBLE_DEVICES says; none where NVML cannot be used."""
    nvml = _nvml()
    if nvml is None:
        return ()
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        names = [(str(number), _text(nvml.nvmlDeviceGetUUID(handle))) for number, handle in enumerate(handles)]
    except nvml.NVMLError:  # no driver, or no GPU
        return ()
    wanted = visible(os.environ.get("CUDA_VISIBLE_DEVICES"), names)
    return tuple(handles[number] for number in wanted)


def visible(variable: str | None, names: list[tuple[str, str]]) -> list[int]:
    """Places in `names`, pairs of number and UUID, that CUDA_VISIBLE_DEVICES names.

    As CUDA reads it: numbers, or beginnings of UUIDs; what follows one that does not exist is not visible.
    """
    if variable is None:
        return list(range(len(names)))
    found: list[int] = []
    for word in filter(None, map(str.strip, variable.split(","))):
        place = next((at for at, (number, uuid) in enumerate(names) if word == number or uuid.startswith(word)), None)
        if place is None:
            break
        found.append(place)
    return found


def _text(value: Any) -> str:
    """Older versions of the package answer with bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


@cache
def _nvml() -> Any:
    """The module; None when it is not installed. `Any`: it carries no types."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None
