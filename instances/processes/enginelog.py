"""An engine's output: appended to a file of bounded size, its last lines kept in memory."""

import collections
import logging
import os
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

LINES = 50
LONGEST_LINE = 4096  # bytes; the rest of a longer one counts as the next


class EngineLog:
    """Survives a full disk: what cannot be written is dropped, the engine never waits for it."""

    def __init__(self, path: Path, on_line: Callable[[str], None], *, size: int = 8 << 20) -> None:
        """Up to `size` bytes in `path`, as many again in `path`.1; both readable by the owner only."""
        self._path = path
        self._on_line = on_line
        self._size = size
        self._partial = b""
        self._complained = False
        self.received = 0  # bytes
        self._file = -1
        self._written = 0
        self.lines: collections.deque[str] = collections.deque(maxlen=LINES)

    def feed(self, data: bytes) -> None:
        self.received += len(data)
        self._append(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        while len(self._partial) > LONGEST_LINE:
            lines.append(self._partial[:LONGEST_LINE])
            self._partial = self._partial[LONGEST_LINE:]
        for line in lines:
            self._take(line)

    def close(self) -> None:
        """The last line counts also without its end."""
        if self._partial:
            self._take(self._partial)
            self._partial = b""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self.lines.append(text)
            self._on_line(text)

    def _append(self, data: bytes) -> None:
        try:
            if self._file < 0 or self._written + len(data) > self._size:
                self._open()
            self._written += os.write(self._file, data)
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning("cannot write %s (%s); the engine goes on without its log", self._path, error.strerror)

    def _open(self) -> None:
        """Open the file, or begin a new one when this one is full."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._written = os.fstat(self._file).st_size
