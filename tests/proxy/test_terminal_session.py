"""When the terminal of the proxy's session is gone."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests.running import Terminal

OVER = """
import signal
from slotproxy.proxy.terminal_session import TerminalSession

session = TerminalSession()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
signal.signal(signal.SIGHUP, lambda *_: None)
print(session.is_over, flush=True)
signal.sigwait({signal.SIGHUP})
print(session.is_over, flush=True)
"""


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.hang_up()


class Session:
    """A process that tells at its start, and after a SIGHUP, whether its terminal is gone."""

    def __init__(self, through: Sequence[str] = (), *, own: bool = False) -> None:
        self.process = subprocess.Popen(
            [*through, sys.executable, "-c", OVER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=own,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_terminal_that_hung_up_is_gone(terminal: Terminal) -> None:
    with Session(terminal.through) as session:
        assert session.says() == "False"
        terminal.hang_up()
        assert session.says() == "True"


def test_a_signal_alone_does_not_take_the_terminal_away(terminal: Terminal) -> None:
    with Session(terminal.through) as session:
        assert session.says() == "False"
        session.process.send_signal(signal.SIGHUP)
        assert session.says() == "False"


def test_with_nohup_there_is_nothing_to_end(terminal: Terminal) -> None:
    with Session((*terminal.through, "nohup")) as session:
        assert session.says() == "False"
        terminal.hang_up()
        session.process.send_signal(signal.SIGHUP)
        assert session.says() == "False"


def test_where_there_never_was_a_terminal_none_is_gone() -> None:
    with Session(own=True) as session:
        assert session.says() == "False"
        session.process.send_signal(signal.SIGHUP)
        assert session.says() == "False"
