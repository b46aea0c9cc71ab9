"""Loaded by the observed proxy: on a signal it writes down the tasks of its event loop."""

import asyncio
import json
import os
import signal
from pathlib import Path

ASK = signal.SIGUSR2  # slotproxy itself has no use for it


def _tell(*_: object) -> None:
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs (yet)
        return
    names = sorted(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    path = Path(os.environ["CHAOS_TASKS"])
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(names))
    fresh.replace(path)


if "CHAOS_TASKS" in os.environ:
    signal.signal(ASK, _tell)
