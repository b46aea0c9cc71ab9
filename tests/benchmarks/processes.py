"""Programs of the benchmark: started on a free port, waited for, ended with everything they started."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

ROOT = Path(__file__).resolve().parent.parent.parent
START = 90.0  # seconds a program may take until it answers
STOP = 10.0  # seconds it may take to end


class NotStarted(Exception):
    """A program does not answer; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A running program that serves HTTP."""

    process: "subprocess.Popen[bytes]"
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    command: Sequence[str], port: int, folder: Path, *, path: str = "/health", env: Mapping[str, str] | None = None
) -> Program:
    """Start a program in `folder` and wait until `path` answers 200. Raises `NotStarted`."""
    log_path = folder / f"{Path(command[0]).name}-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all it starts can be ended with it
        )
    program = Program(process=process, port=port)
    try:
        _wait_until_it_answers(program, path)
    except NotStarted as error:
        end(process)
        last = log_path.read_text(errors="replace").strip().splitlines()[-1:]
        raise NotStarted(": ".join([str(error), *last])) from None
    except BaseException:
        end(process)
        raise
    return program


def _wait_until_it_answers(program: Program, path: str) -> None:
    deadline = monotonic() + START
    while not _answers(program.url + path):
        if program.process.poll() is not None:
            raise NotStarted(f"it ended with code {program.process.returncode}")
        if monotonic() > deadline:
            raise NotStarted(f"it did not answer within {START:g} s")
        sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a program and its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(STOP)


@contextmanager
def ended(*processes: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End the programs whatever happens meanwhile."""
    try:
        yield
    finally:
        for process in processes:
            end(process)


def stand_in(folder: Path) -> Program:
    """The stand-in engine."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.stand_in", str(port)]
    return start(command, port, folder, env={"PYTHONPATH": str(ROOT)})


def embedded(model: str | Path, *, slots: int, threads: int, folder: Path = Path("/tmp")) -> Program:
    """A real engine, started as slotproxy starts it."""
    port = free_port()
    command = [sys.executable, "-m", "slotproxy.instances.profiles.embedded", "-m", str(model), "-a", "demo"]
    command += ["--port", str(port), "-c", str(2048 * slots), "-np", str(slots), "-t", str(threads)]
    return start(command, port, folder)
