"""From a command line to an exit code and one sentence."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError, InstanceError, StartupError
from slotproxy.proxy import __main__ as command
from slotproxy.proxy.accounts.logs import StderrHandler
from slotproxy.proxy.options.config import Settings


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in [name for name in os.environ if name.startswith("SLOTPROXY_")]:
        monkeypatch.delenv(variable)
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, StderrHandler)]


def ending(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> list[Settings]:
    """Let serving end with `error`; what it was asked to serve."""
    asked: list[Settings] = []

    def serve(settings: Settings, reread: object) -> int:
        asked.append(settings)
        if error is not None:
            raise error
        return 0

    monkeypatch.setattr(command, "_serve", serve)
    return asked


def run(*argv: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLOTPROXY_")}
    return subprocess.run(
        [sys.executable, "-m", "slotproxy.proxy", *argv],
        env=inherited | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


NOBODY = """
import pwd, sys

def getpwuid(number):
    raise KeyError(number)

pwd.getpwuid = getpwuid
from slotproxy.proxy.__main__ import main

sys.exit(main())
"""


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["engines"], ["engines", "vllm", "--state-dir", "/s"]])
def test_a_user_without_a_name_and_a_home_can_look_around(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, *argv],
        env={name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG_", "SLOTPROXY_"))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_last_words_are_waited_for_whatever_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(command, "write_line", told.append)
    monkeypatch.setattr(command, "flush", lambda seconds: told.append("flushed"))
    ending(monkeypatch, StartupError("no"))
    assert command.main([]) == 1
    assert told == ["slotproxy: no", "flushed"]
    ending(monkeypatch, None)
    assert command.main([]) == 0
    assert told[2:] == ["flushed"]


def test_a_clean_end_is_0_and_the_settings_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ending(monkeypatch, None)
    assert command.main(["--port", "9"]) == 0
    assert [settings.port for settings in asked] == [9]


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ConfigurationError("the model is gone: name another"), 2, "the model is gone: name another"),
        (StartupError("port 1 is taken"), 1, "port 1 is taken"),
        (InstanceError("no instance could be started"), 1, "no instance could be started"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1, "/x: No such file or directory"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (ExceptionGroup("", [ExceptionGroup("", [StartupError("port 1 is taken")])]), 1, "port 1 is taken"),
        (
            ZeroDivisionError("oh"),
            1,
            "a bug of slotproxy: ZeroDivisionError: oh (--log-level debug shows where)",
        ),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    error: Exception, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ending(monkeypatch, error)
    assert command.main([]) == code
    assert capfd.readouterr().err == f"slotproxy: {sentence}\n"


def test_level_debug_shows_where_an_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ending(monkeypatch, ZeroDivisionError("oh"))
    assert command.main(["--log-level", "debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_ends_without_a_word(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    ending(monkeypatch, KeyboardInterrupt())
    assert command.main([]) == 128 + signal.SIGINT
    assert capfd.readouterr().err == ""


def test_bad_usage_is_2_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ending(monkeypatch, None)
    assert command.main(["--prot", "9"]) == 2
    assert capfd.readouterr().err == "slotproxy: --prot is no option of slotproxy; did you mean --port?\n"
    assert asked == []


def test_a_seldom_meant_choice_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ending(monkeypatch, None)
    assert command.main(["--ctx-size", "600"]) == 0
    assert "warning: --ctx-size 600 is small" in capfd.readouterr().err


def test_serving_runs_on_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[str] = []

    async def serve(settings: Settings, model: Path | None, reread: object) -> int:
        loops.append(type(asyncio.get_running_loop()).__module__)
        return 7

    server = type(sys)("slotproxy.proxy.server")
    server.serve = serve  # type: ignore[attr-defined]
    server.model_of = lambda settings: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slotproxy.proxy.server", server)
    assert command.main([]) == 7
    assert loops == ["uvloop"]


def test_the_command_itself_refuses_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "slotproxy.toml"
    path.write_text("prot = 1\n")
    for argv, env in ((["--prot", "1"], {}), (["--config", str(path)], {}), ([], {"SLOTPROXY_PROT": "1"})):
        done = run(*argv, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "did you mean" in done.stderr


def test_help_and_version_end_with_0() -> None:
    for option in ("--help", "--version"):
        done = run(option)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_a_command_that_shows_something_ends_with_0_and_loads_no_server(demo_model: Path) -> None:
    program = """if True:
        import sys
        from slotproxy.proxy.__main__ import main
        for argv in (["plan"], ["engines"], ["engines", "embedded"]):
            assert main(argv) == 0, argv
        assert not {"aiohttp", "uvloop"} & sys.modules.keys()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "KV cache of a token" in done.stdout


def test_serving_loads_nothing_of_the_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys; from slotproxy.proxy import server; "
        "from slotproxy.proxy.options.sources import load; load([], {}); "
        "sys.exit(any(name.startswith(('rich', 'slotproxy.proxy.commands')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_command_refuses_in_one_line(tmp_path: Path) -> None:
    done = run("plan", "--model", str(tmp_path / "no.gguf"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_a_reader_that_leaves_is_no_error(demo_model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "slotproxy.proxy", "plan"]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
