"""Machines of the laboratory: how fast an engine computes, alone and beside others, and what its memory costs. Pure.

Figures that were measured say where; the others are assumptions, and say so.
"""

from dataclasses import dataclass

MIB, GIB = 1 << 20, 1 << 30
PREFILL, DECODE = "prefill", "decode"  # what engines share the machine for


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One host and the model on it. Rates are tokens per second of one engine that works alone."""

    name: str
    engines: int
    prefill: float
    decode: float
    # The share of its speed that an engine keeps while 1, 2, ... engines work; beyond that all together gain nothing.
    prefill_beside: tuple[float, ...]
    decode_beside: tuple[float, ...]
    kv_bytes: int  # of one token
    cache_ram: int  # bytes of old prompts that each engine keeps beside its slot
    copying: float  # bytes per second between an engine's slot and its own old prompts
    saving: float  # bytes per second into the store of all engines, and back
    restoring: float
    save_seconds: float = 0.002  # for any text, however short
    restore_seconds: float = 0.001
    restart_seconds: float = 5.0

    def speed(self, work: str, busy: int) -> float:
        """The share of its speed that each of `busy` engines has."""
        shares = self.prefill_beside if work == PREFILL else self.decode_beside
        return shares[busy - 1] if busy <= len(shares) else shares[-1] * len(shares) / busy

    def save(self, tokens: int) -> float:
        """Seconds."""
        return self.save_seconds + tokens * self.kv_bytes / self.saving

    def restore(self, tokens: int) -> float:
        """Seconds."""
        return self.restore_seconds + tokens * self.kv_bytes / self.restoring


# Measured with the embedded engine: prefill 160 tok/s and decode 45 tok/s while both engines work, 16.6 MB saved in
# 10 ms and restored in 4.5 ms, 22.5 KiB of KV for each token. Alone an engine is an eighth faster (assumed: each has a
# core, they share the memory).
TWO_CORES = Machine(
    name="two cores, 135M",
    engines=2,
    prefill=182.0,
    decode=51.0,
    prefill_beside=(1.0, 0.88),
    decode_beside=(1.0, 0.88),
    kv_bytes=23_040,
    cache_ram=64 * MIB,
    copying=8e9,
    saving=2.1e9,
    restoring=5e9,
)

# Measured by others: 33 tok/s with one instance and 49.5 with two, an 80.8 GiB file; context buffers of 5,110 MiB for
# 163,840 tokens. Assumed: prefill of 250 tok/s that two share, files at 4 GB/s, room for 8 GiB of old prompts.
M3_ULTRA = Machine(
    name="M3 Ultra, 80 GiB",
    engines=2,
    prefill=250.0,
    decode=33.0,
    prefill_beside=(1.0, 0.6),
    decode_beside=(1.0, 0.75),
    kv_bytes=32_700,
    cache_ram=8 * GIB,
    copying=4e9,
    saving=4e9,
    restoring=4e9,
    save_seconds=0.02,
    restore_seconds=0.02,
    restart_seconds=60.0,
)

# Assumed from the size of the model (4.9 GB of weights, 50 GB/s of memory, 128 KB of KV for each token): an 8B model
# gains next to nothing by a second engine, so all that is to be had is what need not be computed.
LAPTOP = Machine(
    name="laptop, 8B",
    engines=2,
    prefill=50.0,
    decode=9.0,
    prefill_beside=(1.0, 0.52),
    decode_beside=(1.0, 0.55),
    kv_bytes=128 * 1024,
    cache_ram=64 * MIB,
    copying=6e9,
    saving=1e9,
    restoring=2e9,
    restart_seconds=15.0,
)

# Assumed: eight engines on one host, a large GPU that they share, for `--hosts 50`.
EIGHT = Machine(
    name="host of 8 engines",
    engines=8,
    prefill=2000.0,
    decode=60.0,
    prefill_beside=(1.0, 0.6, 0.45, 0.35, 0.29, 0.25, 0.22, 0.2),
    decode_beside=(1.0, 0.8, 0.65, 0.55, 0.48, 0.42, 0.38, 0.34),
    kv_bytes=128 * 1024,
    cache_ram=8 * GIB,
    copying=10e9,
    saving=4e9,
    restoring=6e9,
    restart_seconds=30.0,
)

MACHINES = {"two-cores": TWO_CORES, "m3-ultra": M3_ULTRA, "laptop": LAPTOP, "eight": EIGHT}
