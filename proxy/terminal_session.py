"""The terminal in whose session the proxy was started, if there is one: when it hangs up, the proxy is to end."""

import errno
import os
import signal

TERMINAL = "/dev/tty"  # whichever controls the session of the process that opens it
GONE = (errno.ENXIO, errno.EIO, errno.ENODEV, errno.ENOENT)


class TerminalSession:
    """To be made before SIGHUP gets a handler."""

    def __init__(self) -> None:
        stays = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup: it is to outlive its terminal
        self._ends_with_terminal = not stays and _error_of_opening() == 0

    @property
    def is_over(self) -> bool:
        """Whether the terminal is gone. False: it is there, there never was one, or nohup was used."""
        return self._ends_with_terminal and _error_of_opening() in GONE


def _error_of_opening() -> int:
    """0: it can be opened."""
    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or errno.EIO
    return 0
