"""Versions as engines print them, and programs that do not."""

import asyncio
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles import catalog, detection
from slotproxy.instances.profiles.detection import detect, find_version


def engine(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("version: 5604 (0c1e5709)\nbuilt with cc for x86_64\n", "version: 5604 (0c1e5709)"),
        ("ggml_cuda_init: found 1 CUDA devices:\n  Device 0: X\nversion: 1 (a)\n", "version: 1 (a)"),
        ("ollama version is 0.33.0", "ollama version is 0.33.0"),
        ("llamafile v0.9.3", "llamafile v0.9.3"),
        ("0.33.0\n", "0.33.0"),
        ("", None),
        ("no digits here", None),
    ],
)
def test_the_line_with_the_version_is_found_among_others(said: str, version: str | None) -> None:
    assert find_version(said) == version


async def test_a_program_is_asked_for_its_version_and_its_help(tmp_path: Path) -> None:
    path = engine(
        tmp_path / "llama-server", '[ "$1" = --help ] && echo "--load-mode MODE" || echo "version: 7 (x)" >&2'
    )
    found = await detect(catalog.load("llama-server"), path)
    assert (found.program, found.missing, found.version) == ((path,), None, "version: 7 (x)")
    assert "--load-mode" in found.help_text


async def test_what_a_shell_has_set_for_the_engine_does_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_MODEL", "x1")
    monkeypatch.setenv("SLOTPROXY_API_KEY", "x2")
    path = engine(tmp_path / "llama-server", "echo version 1 $LLAMA_ARG_MODEL $SLOTPROXY_API_KEY")
    assert (await detect(catalog.load("llama-server"), path)).version == "version 1"


async def test_a_program_that_refuses_the_question_has_no_version(tmp_path: Path) -> None:
    path = engine(tmp_path / "ds4-server", "echo unknown option 3; exit 2")
    assert (await detect(catalog.load("ds4-server"), path)).version is None


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_program_that_does_not_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "VERSION_TIMEOUT", 0.05)
    path = engine(tmp_path / "ds4-server", "exec sleep 60")
    assert (await detect(catalog.load("ds4-server"), path)).version is None


async def test_a_program_that_is_given_up_ends_with_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    path = engine(tmp_path / "ds4-server", f"sleep 60 &\necho $! > {note}.new && mv {note}.new {note}\nwait")
    async with asyncio.timeout(60):
        asking = asyncio.ensure_future(detect(catalog.load("ds4-server"), path))
        while not note.exists():
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while _runs(int(note.read_text())):  # the kernel carries the signal out in its own time
            await asyncio.sleep(0.01)


async def test_an_engine_of_a_package_has_the_packages_version() -> None:
    found = await detect(catalog.load("embedded"), None)
    assert found.program[0] == sys.executable
    assert (found.version or "").startswith("xllamacpp 20")


async def test_a_module_without_a_package_of_its_own_says_nothing() -> None:
    profile = msgspec.structs.replace(catalog.load("embedded"), module="json.tool", requires="json")
    assert (await detect(profile, None)).version is None


async def test_what_is_not_installed_is_shown_as_the_newest_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = await detect(catalog.load("llama-server"), None)
    assert (found.program, found.version) == (("llama-server",), None)
    assert "not installed" in (found.missing or "")
    assert all(options.flag in found.help_text for options in catalog.load("llama-server").options)
    absent = msgspec.structs.replace(catalog.load("embedded"), requires="no_such_package")
    assert (await detect(absent, None)).program[1:] == ("-P", "-m", "slotproxy.instances.profiles.embedded")


async def test_a_wrong_executable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="check --engine-bin"):
        await detect(catalog.load("ds4-server"), "/nowhere/ds4")


async def test_the_help_is_read_only_for_a_profile_that_asks(tmp_path: Path) -> None:
    program = (engine(tmp_path / "engine", "echo --load-mode $1"),)
    assert await detection.help_text(catalog.load("llama-server"), program) == "--load-mode --help\n"
    assert await detection.help_text(catalog.load("ds4-server"), program) == ""


async def test_an_engine_whose_help_does_not_end_is_taken_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "HELP_TIMEOUT", 0.05)
    program = (engine(tmp_path / "engine", "exec sleep 60"),)
    assert "--load-mode" in await detection.help_text(catalog.load("llama-server"), program)


async def test_an_engine_that_judges_its_arguments_is_asked(tmp_path: Path) -> None:
    profile = msgspec.structs.replace(catalog.load("embedded"), check="--judge")
    program = (engine(tmp_path / "judge", 'echo noise >&2; echo "bad: $*" >&2; exit ${STATUS:-2}'),)
    assert await detection.objection(profile, program, ("-x", "y")) == "bad: --judge -x y"
    assert await detection.objection(profile, program, ()) is None
    assert await detection.objection(catalog.load("llama-server"), program, ("-x",)) is None


async def test_another_exit_status_is_no_objection(tmp_path: Path) -> None:
    program = (engine(tmp_path / "broken", "echo broken >&2; exit 1"),)
    assert await detection.objection(catalog.load("embedded"), program, ("-x",)) is None


async def test_a_subcommand_is_asked_for_its_own_help(tmp_path: Path) -> None:
    program = (engine(tmp_path / "vllm", 'echo "$@"'),)
    assert await detection.help_text(catalog.load("vllm"), program, wanted=True) == "serve --help\n"
