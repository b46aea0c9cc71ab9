"""What is read of memory, as values. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Memory of one process tree, in bytes."""

    rss: int
    pss: int  # where a system has no PSS: what is not shared
    private: int  # without a file behind it: what one more instance of the same kind is going to cost
    shared: int  # resident pages that others map too, counted in full
    footprint: int = 0  # macOS: what the system charges the processes
    vram: int = 0  # on NVIDIA GPUs

    def __add__(self, other: "Reading") -> "Reading":
        return Reading(
            rss=self.rss + other.rss,
            pss=self.pss + other.pss,
            private=self.private + other.private,
            shared=self.shared + other.shared,
            footprint=self.footprint + other.footprint,
            vram=self.vram + other.vram,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """Resident pages of one file in one process tree, in bytes."""

    rss: int
    pss: int
    written: (
        int  # to which was written, so that they are no longer the file's (not: file pages that are not on disk yet)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What there is to share out, and what sets it."""

    size: int  # bytes
    source: str  # "physical memory", "cgroup limit", ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """How short of memory a system is. The counters only ever grow: two readings make a rate."""

    stalled: float = 0.0  # share of the last ten seconds in which some task waited for memory, 0 to 1
    swapped_in: int = 0  # bytes read back from swap since the system started
    faults: int = 0  # major page faults of the engines
