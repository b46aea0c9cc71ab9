"""The exit of a child process as a future. A thread for each and not the event loop's own subprocesses: uvloop lets its
descriptors leak into children.
"""

import asyncio
import contextlib
import subprocess
import threading


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
