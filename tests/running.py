"""The installed `slotproxy` command as a process: started, waited for, stopped, searched for what it left behind."""

import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.error import HTTPError

import psutil

COMMAND = Path(sys.executable).parent / "slotproxy"
T = TypeVar("T")
ROOT = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds until a test gives up on a process

PROFILE = """
name = "fake"
summary = "the engine of the tests"
install = "it is part of the tests"
models = ["gguf", "directory"]
executable = {python}
args = ["-m", "tests.fake_engine", "--port", "{{port}}", "--ctx", "{{ctx}}", "--name", "{{name}}"{args}]
env = {{ PYTHONPATH = {root} }}
ready = {{ path = "/health", timeout = {start} }}
warm-up = {{ body = {{ model = "{{name}}", messages = [{{ role = "user", content = "warm-up" }}], max_tokens = 1 }} }}
context = {{ path = "/v1/models", pointer = "/data/0/meta/n_ctx" }}
idle = {{ kind = "slots", first = 0.05, every = 0.2, limit = {idle} }}
stop = {{ term = {term}, again = 0.5 }}
http = {{ keepalive = 4.0 }}
memory = {{ shared = true }}
"""


IN_A_TERMINAL = """
import fcntl, os, sys, termios

os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
os.set_inheritable(terminal, True)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Terminal:
    """A terminal, with a session of its own for what is run `through` it."""

    def __init__(self) -> None:
        self._user, self._program = pty.openpty()
        self.through = (sys.executable, "-c", IN_A_TERMINAL, os.ttyname(self._program))
        self._open = True

    def hang_up(self) -> None:
        """As when its window is closed."""
        if self._open:
            self._open = False
            os.close(self._program)
            os.close(self._user)


def write_profile(
    folder: Path, *args: str, start: float = 10.0, idle: float = 10.0, term: float = 5.0, python: str = sys.executable
) -> Path:
    """A profile file that starts the fake engine with `args`. Its path."""
    path = folder / "fake.toml"
    more = "".join(f", {json.dumps(arg)}" for arg in args)
    values = {"python": json.dumps(python), "root": json.dumps(str(ROOT)), "args": more}
    path.write_text(PROFILE.format(**values, start=start, idle=idle, term=term))
    return path


def write_real_profile(folder: Path, *, term: float, again: float) -> Path:
    """The shipped profile `embedded`, but an engine that does not end is killed after so many seconds. Its path."""
    text = (resources.files("slotproxy.instances.profiles") / "embedded.toml").read_text("utf-8")
    path = folder / "embedded.toml"
    path.write_text(re.sub(r"\[stop\]\nterm = \d+\nagain = \d+\n", f"[stop]\nterm = {term}\nagain = {again}\n", text))
    return path


def fake_engines(
    folder: Path, *args: str, instances: int = 1, term: float = 5.0, idle: float = 10.0
) -> tuple[str, ...]:
    """Options for a proxy with fake engines of its own."""
    model = folder / "model"
    if not model.exists():
        model.mkdir()
        (model / "config.json").write_text('{"architectures": ["Fake"], "model_type": "fake"}')
        (model / "model.safetensors").write_bytes(b"x")
    profile = write_profile(folder, *args, term=term, idle=idle)
    return ("--engine", str(profile), "--model", str(model), "--instances", str(instances))


def real_engine(model: Path, instances: int = 1) -> tuple[str, ...]:
    """Options for llama.cpp instances that are cheap to start: a small context, and one thread each.

    Several threads spin while they wait for each other, and starve where other tests need the cores too.
    """
    options = ("--model", str(model), "--instances", str(instances), "--ctx-size", "1024")
    return (*options, "--", "--threads", "1")


def wait_for(look: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true result of `look`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.01)
    return found


@dataclass(kw_only=True)
class Running:
    """One `slotproxy` process."""

    process: "subprocess.Popen[bytes]"
    log_path: Path
    state_dir: Path

    @classmethod
    def start(
        cls, folder: Path, *options: str, env: Mapping[str, str] | None = None, through: Sequence[str] = ()
    ) -> Self:
        """Spawn it with a state directory in `folder` and a free port, unless `options` say otherwise.

        `through` is a command that runs it, such as prlimit.
        """
        state_dir = folder / "state"
        command = [*through, str(COMMAND), *_with_defaults(options, state_dir)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLOTPROXY_")}
        log_path = folder / f"slotproxy-{time.monotonic_ns()}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=inherited | dict(env or {}), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return cls(process=process, log_path=log_path, state_dir=state_dir)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def port(self) -> int:
        found = re.search(r"listening on https?://\S*?:(\d+)", self.log)
        assert found is not None, self.log
        return int(found[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_listening(self) -> Self:
        wait_for(lambda: "listening on http" in self.log or self._ended(), "listening")
        assert not self._ended(), self.log
        return self

    def wait_ready(self, instances: int = 1) -> Self:
        """Until so many instances are ready."""
        self.wait_listening()
        wait_for(lambda: self._ended() or self.ready_count() >= instances, f"{instances} ready instances")
        assert not self._ended(), self.log
        return self

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def ready_count(self) -> int:
        return int(self.get("/health")[1]["ready"])

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of one of the proxy's own answers."""
        try:
            with urllib.request.urlopen(self.base_url + path, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def slots(self) -> list[dict[str, Any]]:
        slots: list[dict[str, Any]] = self.get("/slots")[1]
        return slots

    def busy(self) -> int:
        return sum(slot["is_processing"] for slot in self.slots())

    def pids(self) -> list[int]:
        """The engines."""
        return sorted({slot["pid"] for slot in self.slots() if slot["pid"] is not None})

    def wait(self, seconds: float = PATIENCE) -> int:
        """Exit code."""
        return self.process.wait(seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, wait for its end, check that nothing of it is left. The exit code."""
        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        ports = {kept.laddr.port for member in family for kept in _listening(member)}
        self.process.send_signal(number)
        code = self.wait()
        self.assert_nothing_left(family, ports)
        return code

    def assert_nothing_left(self, family: Sequence[psutil.Process], ports: set[int]) -> None:
        left = [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"still running: {left}"
        assert not [port for port in ports if _accepts(port)], f"still open: {ports}"
        assert not [path for path in self.state_dir.rglob("*.lock") if is_locked(path)]
        assert not list(self.state_dir.rglob("instance.json"))

    def kill(self) -> None:
        """For the end of a test that has failed: engines first, so that none outlives it."""
        if self._ended():
            return
        for member in [*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)]:
            member.kill()
        self.wait()


StartProxy = Callable[..., Running]


def engines_of(proxy: Running) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in proxy.pids()]


def lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _with_defaults(options: Sequence[str], state_dir: Path) -> list[str]:
    own = {"--port": "0", "--state-dir": str(state_dir)}
    missing = [word for name, value in own.items() if name not in options for word in (name, value)]
    return [*missing, *options]


def _listening(process: psutil.Process) -> "list[Any]":
    try:
        return [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
