"""A child process in a session of its own: started, and its exit as a future.

A thread waits for each and not the event loop's own subprocesses: uvloop lets its descriptors leak into children.
"""

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

PRIVATE = 0o077  # the permissions that the files of a child are made without


def start(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path | str, stdin: int, output: int
) -> "subprocess.Popen[bytes]":
    """`stdin` and `output` are descriptors. From the main thread: where a child dies with its parent, it is the thread
    that counts. What it writes nobody but its user can read: engines save what was said to them. Raises OSError when it
    cannot be run.
    """
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=output,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
        umask=PRIVATE,
    )


def exit_of(child: "subprocess.Popen[bytes]") -> "asyncio.Future[int]":
    """Done with the exit code once `child` is reaped."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[int] = loop.create_future()
    threading.Thread(target=_reap, args=(child, loop, exited), name=f"reaper-{child.pid}", daemon=True).start()
    return exited


def _reap(child: "subprocess.Popen[bytes]", loop: asyncio.AbstractEventLoop, exited: "asyncio.Future[int]") -> None:
    code = child.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
        loop.call_soon_threadsafe(exited.set_result, code)
