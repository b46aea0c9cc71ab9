"""NVIDIA by recorded values: a stand-in for the module pynvml that answers as its documentation says."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from slotproxy.instances.memory import nvidia
from slotproxy.instances.readings import Reading

GIB = 1 << 30
NAMES = [("0", "GPU-aaaa"), ("1", "GPU-bbbb"), ("2", "GPU-cccc")]


class NVMLError(Exception):
    pass


def nvml(*gpus: dict[int, int | None], broken: bool = False) -> Any:
    """GPUs of 80 GiB; each is a mapping of pids to bytes."""

    def init() -> None:
        if broken:
            raise NVMLError("Driver Not Loaded")

    def info(gpu: int) -> SimpleNamespace:
        used = sum(held or 0 for held in gpus[gpu].values())
        return SimpleNamespace(total=80 * GIB, used=used, free=80 * GIB - used)

    def processes(gpu: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in gpus[gpu].items()]

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUUID=lambda number: NAMES[number][1].encode(),
        nvmlDeviceGetMemoryInfo=info,
        nvmlDeviceGetComputeRunningProcesses=processes,
    )


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvidia._devices.cache_clear()
    yield
    nvidia._devices.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setattr(nvidia, "_nvml", lambda: module)


def test_an_engine_is_charged_what_its_processes_hold_on_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, nvml({7: 10 * GIB, 8: GIB, 99: 5 * GIB}, {7: 2 * GIB}))
    assert nvidia.usable()
    assert nvidia.used_by({7, 8}) == 13 * GIB
    reading = nvidia.with_vram(Reading(rss=1, pss=1, private=1, shared=0), {7, 8})
    assert (reading.vram, reading.pss) == (13 * GIB, 1)


def test_all_gpus_together_are_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, nvml({7: 10 * GIB}, {}))
    assert nvidia.total() == 160 * GIB
    assert nvidia.free() == 150 * GIB


def test_a_driver_that_does_not_tell_shares_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, nvml({7: None}))
    assert nvidia.used_by({7}) == 0


def test_a_driver_that_stops_answering_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nvml({7: GIB})
    installed(monkeypatch, module)
    assert nvidia.usable()

    def lost(_: int) -> None:
        raise NVMLError("GPU is lost")

    module.nvmlDeviceGetMemoryInfo = module.nvmlDeviceGetComputeRunningProcesses = lost
    for ask in (nvidia.total, nvidia.free, lambda: nvidia.used_by({7})):
        with pytest.raises(OSError, match="NVML: GPU is lost"):
            ask()


def test_gpus_that_engines_cannot_see_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, nvml({}, {7: GIB}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert nvidia.total() == 80 * GIB
    assert nvidia.free() == 79 * GIB


@pytest.mark.parametrize("module", [None, nvml(broken=True), nvml()])
def test_without_package_driver_or_gpu_it_is_not_usable(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    installed(monkeypatch, module)
    assert not nvidia.usable()


@pytest.mark.parametrize(
    ("variable", "places"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("GPU-bb", [1]),
        ("0,7,1", [0]),
        ("-1", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_see(variable: str | None, places: list[int]) -> None:
    assert nvidia.visible(variable, NAMES) == places
