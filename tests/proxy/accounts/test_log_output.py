"""A log that nobody reads stops nobody, and says later what is missing."""

import os
import pty
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slotproxy.proxy.accounts.log_output import KEPT, LogOutput

LONG = 10.0  # seconds until something that blocks is given up
LINE = "x" * 99


@pytest.fixture(autouse=True)
def _not_blocked() -> Iterator[None]:
    """What blocks fails, instead of holding up all tests."""

    def late(*_: object) -> None:
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONG)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.output = LogOutput(self.writer, "{} dropped".format)

    def read(self) -> list[str]:
        """All lines, also those that wait: until nothing comes any more."""
        os.set_blocking(self.reader, False)
        data = b""
        while True:
            self.output.catch_up()
            try:
                data += os.read(self.reader, 1 << 20)
            except BlockingIOError:
                return data.decode().splitlines()


@pytest.fixture(params=["as it is", "opened again"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    pipe = Pipe()
    if request.param == "opened again":
        pipe.output.open()
    yield pipe
    pipe.output.close()
    for descriptor in (pipe.reader, pipe.writer):
        os.close(descriptor)


def fill(pipe: Pipe) -> int:
    """Write as many lines as fit; how many these are."""
    fits = 0
    while select.select([], [pipe.writer], [], 0)[1]:
        pipe.output.write(LINE)
        fits += 1
    return fits


def test_lines_are_written_at_once_where_they_are_read(pipe: Pipe) -> None:
    for number in range(3):
        pipe.output.write(f"line {number}")
        assert os.read(pipe.reader, 100) == b"line %d\n" % number


def test_lines_wait_while_nobody_reads_and_none_is_lost(pipe: Pipe) -> None:
    fits = fill(pipe)
    for number in range(KEPT):
        pipe.output.write(f"late {number}")
    assert pipe.read()[fits:] == [f"late {number}" for number in range(KEPT)]


def test_the_oldest_of_too_many_are_dropped_and_their_number_stands_in_their_place(pipe: Pipe) -> None:
    fits = fill(pipe)
    late = [f"late {number}" for number in range(KEPT + 1000)]  # a last page of the pipe may take some of them
    for line in late:
        pipe.output.write(line)
    lines = pipe.read()[fits:]
    (told,) = [line for line in lines if "dropped" in line]
    place, dropped = lines.index(told), int(told.split()[0])
    assert 0 < dropped <= 1000
    assert (lines[:place], lines[place + 1 :]) == (late[:place], late[place + dropped :])
    assert len(lines[place + 1 :]) == KEPT
    pipe.output.write("as ever")
    assert pipe.read() == ["as ever"]


def test_a_line_that_is_longer_than_the_pipe_arrives_whole(pipe: Pipe) -> None:
    long = "y" * 300_000
    pipe.output.write(long)
    pipe.output.write("next")
    assert pipe.read() == [long, "next"]


def test_the_descriptor_that_others_share_stays_as_it_was(pipe: Pipe) -> None:
    pipe.output.write("x")
    assert os.get_blocking(pipe.writer)


def test_the_last_lines_are_waited_for_while_somebody_reads(pipe: Pipe) -> None:
    for _ in range(KEPT):
        pipe.output.write(LINE)
    got = bytearray()

    def read() -> None:
        while data := os.read(pipe.reader, 4096):
            got.extend(data)
            if got.endswith(b"last\n"):
                return

    reading = threading.Thread(target=read)
    pipe.output.write("last")
    reading.start()
    pipe.output.flush(LONG)
    reading.join()
    assert got.splitlines()[-1] == b"last"
    assert len(got.splitlines()) == KEPT + 1


def test_the_last_lines_of_a_log_that_nobody_reads_are_waited_for_no_longer_than_told(pipe: Pipe) -> None:
    for _ in range(KEPT):
        pipe.output.write(LINE)
    pipe.output.flush(0.01)


def test_a_reader_that_is_gone_is_not_waited_for(pipe: Pipe) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, pipe.reader)
    os.close(null)
    pipe.output.write("a")
    pipe.output.write("b")
    pipe.output.flush(10 * LONG)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_lines_that_a_full_disk_did_not_take_are_counted() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    output = LogOutput(descriptor, "{} dropped".format)
    try:
        output.write("first")
        for number in range(KEPT + 2):
            output.write(f"late {number}")
        reader, writer = os.pipe()
        os.dup2(writer, descriptor)
        output.catch_up()
        os.close(writer)
        assert os.read(reader, 1000).decode().splitlines()[:2] == ["3 dropped", "late 2"]
        os.close(reader)
    finally:
        os.close(descriptor)


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """The user's side of it, and the program's."""
    user, program = pty.openpty()
    tty.setraw(program)
    try:
        yield user, program
    finally:
        os.close(user)
        os.close(program)


@pytest.mark.parametrize("stop", ["Ctrl-S", "not read"])
def test_a_terminal_that_stands_still_blocks_nobody_and_gets_its_lines_later(stop: str) -> None:
    with terminal() as (user, program):
        output = LogOutput(program, "{} dropped".format)
        output.open()
        if stop == "Ctrl-S":
            termios.tcflow(program, termios.TCOOFF)
        for number in range(KEPT):
            output.write(f"{number} {LINE}")
        if stop == "Ctrl-S":
            termios.tcflow(program, termios.TCOON)
        data = b""
        while not data.endswith(b"%d %b\n" % (KEPT - 1, LINE.encode())):
            output.catch_up()
            data += os.read(user, 1 << 16)
        output.close()
    assert data.decode().splitlines() == [f"{number} {LINE}" for number in range(KEPT)]


def test_a_terminal_that_hung_up_stops_nobody() -> None:
    with terminal() as (user, program):
        output = LogOutput(program, "{} dropped".format)
        output.open()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, user)
        os.close(null)
        output.write("x")
        output.flush(10 * LONG)
        output.close()
