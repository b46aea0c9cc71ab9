"""What the supply side is told, as frozen values. Pure."""

import enum
from dataclasses import dataclass
from pathlib import Path

METRICS = ("auto", "resident", "wired", "vram")
"""What `--memory-limit` limits: resident memory (PSS), memory the system may not page out, or memory of NVIDIA GPUs."""


class Api(enum.Enum):
    """Whose conventions a server follows that runs elsewhere."""

    OPENAI = "openai"  # the key as `Authorization: Bearer`, as nearly everybody takes it
    ANTHROPIC = "anthropic"  # the key as `x-api-key`, and `anthropic-version` in every request


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSpec:
    """`--upstream URL[,OPTION=VALUE]...`: a server that runs elsewhere."""

    url: str
    slots: int = 1
    key_env: str | None = None  # name of the environment variable that holds its API key
    overflow: bool = False  # used only when nothing else has a free slot
    model: str | None = None  # what it calls the model, whatever clients call it; None: they name the same
    api: Api | None = None  # how it takes its key; None: as its host is known to


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """`--memory-limit`: a share of the effective total, or a size. Exactly one is set."""

    percent: float | None = None
    size: int | None = None  # bytes

    def within(self, total: int) -> int:
        """The limit in bytes on a machine of `total` bytes."""
        return self.size if self.size is not None else int(total * (self.percent or 0) / 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplySettings:
    """Every choice of the user that concerns engines. `None` means: the profile's, or measured."""

    model: Path | None  # None: no local instances, only upstreams
    engine: str = "auto"  # profile name, path of a profile file, or "auto"
    engine_bin: str | None = None
    engine_args: tuple[str, ...] = ()
    instances: int | None = None  # None: auto
    max_instances: int = 8
    ctx_size: int | None = None  # tokens, of each instance
    memory_limit: MemoryLimit = MemoryLimit(percent=80)
    memory_metric: str = "auto"  # one of METRICS
    min_gain: float = 0.05  # share by which one more instance must raise the tokens per second of all; 0: any will do
    recalibrate: bool = False  # measure anew what an earlier start found out
    upstreams: tuple[UpstreamSpec, ...] = ()
    state_dir: Path
    drain_timeout: float = 60.0  # seconds
    affinity: bool = True  # conversations find the instance that knows them, or are handed over
    kv_store_limit: int | None = None  # bytes of saved conversations; None: by the free disk; 0: none are saved
    kv_keep: bool = False  # saved conversations outlive the proxy
    kv_share: bool = True  # a beginning that two principals have sent may be given to a third
