"""Where log lines go: a stream that may be full, that is not read for a while, or never again.

Nothing here blocks: what cannot be written at once waits, and of what waits the oldest lines are dropped and counted. A
descriptor that other processes share, such as the shell, is never made non-blocking: a second opening of it is.
"""

import contextlib
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

KEPT = 1000  # lines that wait, at most
PIECE = select.PIPE_BUF  # bytes that fit into a pipe of which the system says that it is writable


class LogOutput:
    """Lines on their way to a file descriptor. For any thread."""

    def __init__(self, descriptor: int, dropped: Callable[[int], str]) -> None:
        """`dropped`: the line that tells how many lines were dropped; it stands where they are missing."""
        self._descriptor = descriptor
        self._dropped_line = dropped
        self._own: int | None = None  # a second opening, non-blocking
        self._never_blocks = False
        self._waiting: deque[bytes] = deque()
        self._begun = b""  # what is left of the line that is being written
        self._means = 0  # how many lines are lost with that one
        self._dropped = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lock = threading.Lock()

    def open(self) -> None:
        """Find out what the descriptor is. Without, two processes that fill one pipe at a moment can still block."""
        with self._lock:
            self.close()
            self._own = _opened_again(self._descriptor)
            self._never_blocks = self._own is not None or _is_file(self._descriptor)

    def close(self) -> None:
        """Lines go to the descriptor itself from now on."""
        if self._own is not None:
            os.close(self._own)
        self._own, self._never_blocks = None, False

    def write(self, line: str) -> None:
        """A line without its end."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            try_it = self._never_blocks and not self._pending  # saves asking whether it can be written
            self._waiting.append(data)
            if len(self._waiting) > KEPT:
                self._waiting.popleft()
                self._dropped += 1
            self._write_out(try_it=try_it)

    def catch_up(self) -> None:
        """Write what waits, as far as that is possible now."""
        if self._pending:
            with self._lock:
                self._write_out()

    def flush(self, seconds: float) -> None:
        """Write what waits; wait so long at most for somebody to read."""
        deadline = monotonic() + seconds
        with self._lock:
            while self._pending and (left := deadline - monotonic()) > 0:
                self._poll.poll(left * 1000)
                if not self._write_out():
                    return

    @property
    def _pending(self) -> bool:
        return bool(self._waiting or self._begun or self._dropped)

    def _write_out(self, *, try_it: bool = False) -> bool:
        """Until nothing waits or the stream is full. False: what was written is lost, and so would be the next."""
        try:
            while self._pending and (try_it or self._poll.poll(0)):  # an error of the descriptor counts as writable
                self._begin()
                written = os.write(self._descriptor if self._own is None else self._own, self._begun[:PIECE])
                self._begun = self._begun[written:]
        except BlockingIOError:
            pass
        except OSError:  # the disk is full, or the reader is gone
            self._dropped += self._means
            self._begun = b""
            return False
        return True

    def _begin(self) -> None:
        """The next line, unless one has been begun."""
        if self._begun:
            return
        if self._dropped:
            self._begun = self._dropped_line(self._dropped).encode() + b"\n"
            self._means, self._dropped = self._dropped, 0
        else:
            self._begun, self._means = self._waiting.popleft(), 1


def _opened_again(descriptor: int) -> int | None:
    """The same pipe or terminal, opened for us alone, so that it can be non-blocking. None: it cannot, or need not."""
    with contextlib.suppress(OSError):
        path = _path(descriptor)
        if path is not None:
            return os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    return None


def _is_file(descriptor: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _path(descriptor: int) -> str | None:
    if os.isatty(descriptor):
        return os.ttyname(descriptor)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return f"/proc/self/fd/{descriptor}"  # on Linux; elsewhere there is no way
    return None
