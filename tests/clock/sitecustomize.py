"""Loaded by a proxy whose clock is to jump: the wall clock of Python is off by what a file says."""

import os
import time
from pathlib import Path

_now, _now_ns = time.time, time.time_ns


def _offset() -> float:
    try:
        return float(Path(os.environ["CLOCK_JUMP"]).read_text())
    except (KeyError, OSError, ValueError):
        return 0.0


time.time = lambda: _now() + _offset()
time.time_ns = lambda: _now_ns() + int(_offset() * 1e9)
