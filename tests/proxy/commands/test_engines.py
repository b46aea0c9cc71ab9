"""`slotproxy engines`: the list, one profile, and the command line, which is the one an instance is started with."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.models import model
from slotproxy.instances.profiles import catalog, launch, selection
from slotproxy.proxy.commands import engines
from slotproxy.proxy.options.sources import read

LLAMA_SERVER = """#!/bin/sh
case $1 in
  --version) echo "version: 7 (abc)" ;;
  --help) echo "  --load-mode MODE  --no-ui" ;;
esac
"""


def run(*argv: str) -> int:
    invocation = read(["engines", *argv], {})
    return engines.run(invocation.settings, invocation.engine, as_json=invocation.json)


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert run("--json", *argv) == 0
    return json.loads(capsys.readouterr().out)


def page(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(*argv) == 0
    return capsys.readouterr().out


@pytest.fixture
def llama_server(tmp_path: Path) -> str:
    path = tmp_path / "llama-server"
    path.write_text(LLAMA_SERVER)
    path.chmod(0o755)
    return str(path)


def test_the_list_has_every_profile_that_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    listed = document(capsys)
    assert [row["name"] for row in listed] == list(catalog.names())
    rows = {line.split()[0]: line for line in page(capsys).splitlines() if line}
    assert set(catalog.names()) <= rows.keys()
    assert rows["embedded"].split()[-1] == "yes"  # the tests need it installed


def test_the_list_tells_what_each_of_several_slots_would_have(capsys: pytest.CaptureFixture[str]) -> None:
    rules = {row["name"]: row["context_rule"] for row in document(capsys)}
    assert (rules["llama-server"], rules["ollama"], rules["mlx_lm.server"]) == ("divided", "each", "unlimited")
    rows = {line.split()[0]: line.split() for line in page(capsys).splitlines() if line}
    assert rows["llama-server"][-2] == "C/K"
    assert rows["ollama"][-2] == "C"


def test_a_variable_that_may_pass_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/store")
    assert "SLOTPROXY_* (except OLLAMA_MODELS)\n" in page(capsys, "ollama")
    assert "OLLAMA_MODELS" not in document(capsys, "ollama")["instance"]["environment"]["removed"]


def test_the_context_is_what_a_start_would_ask_for(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    command = document(capsys, "ds4-server")["instance"]["command"]
    assert command[command.index("-c") + 1] == str(catalog.load("ds4-server").ctx)
    with pytest.raises(ConfigurationError, match="8192 tokens the model was trained for"):
        run("embedded", "--ctx-size", "8193")


def test_arguments_that_a_start_would_refuse_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^--port after -- is set by slotproxy"):
        run("embedded", "--", "--port", "1")


def test_each_profile_can_be_shown_whether_or_not_it_is_installed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    unknown = ["--model", str(tmp_path / "m.gguf")]  # there is no header to read, which saves time
    for name in catalog.names():
        found = document(capsys, name, *unknown)
        assert found["name"] == found["profile"]["name"] == name
        assert found["installed"] is (found["missing"] is None)
        assert page(capsys, name, *unknown).startswith(f"{name}: {found['summary']}\n")


def test_the_command_is_the_one_an_instance_would_be_started_with(
    capsys: pytest.CaptureFixture[str], demo_model: Path, tmp_path: Path
) -> None:
    argv = ["embedded", "--ctx-size", "2048", "--instances", "2", "--state-dir", str(tmp_path), "--", "-b", "64"]
    found = document(capsys, *argv)["instance"]
    command = found["command"]
    place = launch.Place(directory=tmp_path / "instances" / "0", port=int(command[command.index("--port") + 1]))
    facts = model.check(demo_model)
    started = launch.Launch(
        profile=catalog.load("embedded"),
        program=selection.program(catalog.load("embedded"), None),
        model=demo_model,
        name=facts.name,
        ctx=2048,
        threads=int(command[command.index("--threads") + 1]),
        extra_args=("-b", "64"),
    )
    assert tuple(command) == started.command(place)
    assert found["cwd"] == str(place.directory)


def test_the_line_on_the_page_can_be_given_to_a_shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, llama_server: str
) -> None:
    path = tmp_path / "a model's.gguf"
    lines = page(capsys, "llama-server", "--engine-bin", llama_server, "--model", str(path)).splitlines()
    (line,) = [line for line in lines if line.startswith(llama_server)]
    command = shlex.split(line)
    assert command[command.index("--model") + 1] == str(path)
    assert command[command.index("--alias") + 1] == "a model's"


def test_what_was_detected_is_shown(capsys: pytest.CaptureFixture[str], llama_server: str) -> None:
    argv = ["llama-server", "--engine-bin", llama_server]
    found = document(capsys, *argv)
    assert (found["installed"], found["version"]) == (True, "version: 7 (abc)")
    assert found["options"]["--load-mode"] is True
    assert found["options"]["--no-repack"] is False
    assert "--no-repack" not in found["instance"]["command"]
    text = page(capsys, *argv)
    assert "version: 7 (abc)" in text
    assert any(line.split()[:2] == ["--no-repack", "no:"] for line in text.splitlines())


def test_the_environment_is_told_by_what_changes_and_no_value_of_a_removed_variable_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA_ARG_API_KEY", "hunter2")
    monkeypatch.setenv("DS4_LOCK_FILE", "/hunter2")
    found = document(capsys, "ds4-server", "--state-dir", str(tmp_path))["instance"]["environment"]
    lock = str(tmp_path / "instances" / "0" / "engine.lock")
    assert found["set"] == {"DS4_LOCK_FILE": lock, "INSTANCE_OF_SLOTPROXY": str(tmp_path / "instances" / "0")}
    assert "LLAMA_ARG_API_KEY" in found["removed"]
    text = page(capsys, "ds4-server", "--state-dir", str(tmp_path))
    assert f"DS4_LOCK_FILE={lock}" in text.splitlines()
    assert "hunter2" not in text


def test_a_profile_of_the_users_own_is_shown_like_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (Path(catalog.__file__).parent / "ds4-server.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('name = "ds4-server"', 'name = "mine"'))
    assert document(capsys, str(path))["name"] == "mine"


def test_nothing_is_fetched_or_written_to_show_a_profile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run("embedded", "--state-dir", str(tmp_path / "state"))
    assert str(tmp_path / "cache") in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no engine profile 'lama'.*embedded"):
        run("lama")
