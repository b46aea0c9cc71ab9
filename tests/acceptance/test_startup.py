"""Whatever is wrong at the start is said in one plain sentence, with the right exit code and without a traceback."""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from tests.running import Running, StartProxy, write_profile

LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")


def complaint(running: Running, code: int) -> str:
    """The one sentence with which `running` ended."""
    assert running.wait() == code, running.log
    assert "Traceback" not in running.log
    sentences = [line for line in running.log.splitlines() if not LOG_LINE.match(line)]
    assert len(sentences) == 1, running.log
    assert sentences[0].startswith("slotproxy: ")
    return sentences[0]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A directory that passes for a model: the fake engine reads none."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Fake"], "model_type": "fake"}')
    (folder / "model.safetensors").write_bytes(b"x")
    return str(folder)


def test_a_second_proxy_on_the_same_state_directory(start_proxy: StartProxy, model: str, tmp_path: Path) -> None:
    options = ("--engine", str(write_profile(tmp_path)), "--model", model, "--instances", "1")
    first = start_proxy(*options).wait_ready()
    sentence = complaint(start_proxy(*options), 1)
    assert str(first.pid) in sentence
    assert str(first.state_dir) in sentence
    assert first.ready_count() == 1


def test_a_taken_port(start_proxy: StartProxy) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        sentence = complaint(start_proxy("--port", port, "--upstream", "http://127.0.0.1:1"), 1)
    assert port in sentence
    assert "--port" in sentence


def test_localhost_is_every_address_of_that_name(start_proxy: StartProxy) -> None:
    try:
        named = {found[4][0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        named = {"127.0.0.1"}
    running = start_proxy("--host", "localhost", "--upstream", "http://127.0.0.1:1").wait_listening()
    for address in named:
        socket.create_connection((str(address), running.port), timeout=5).close()


def test_a_missing_model(start_proxy: StartProxy, tmp_path: Path) -> None:
    path = str(tmp_path / "nothing.gguf")
    assert path in complaint(start_proxy("--model", path), 2)


@pytest.mark.parametrize("damage", ["truncated", "not a GGUF", "empty"])
def test_a_corrupt_model(start_proxy: StartProxy, demo_model: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.gguf"
    data = demo_model.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "not a GGUF": b"MZ" + data[2:4096], "empty": b""}[damage])
    sentence = complaint(start_proxy("--model", str(path)), 2)
    assert str(path) in sentence


def test_an_engine_that_exits_at_once_is_quoted(start_proxy: StartProxy, model: str, tmp_path: Path) -> None:
    profile = write_profile(tmp_path, "--exit", "the flux capacitor is missing")
    running = start_proxy("--engine", str(profile), "--model", model, "--instances", "1")
    assert "the flux capacitor is missing" in complaint(running, 1)


def test_an_engine_that_is_not_there(start_proxy: StartProxy, model: str, tmp_path: Path) -> None:
    profile = write_profile(tmp_path, python="no-such-engine")
    sentence = complaint(start_proxy("--engine", str(profile), "--model", model), 2)
    assert "fake is not installed" in sentence


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--instnces", "2"], "--instances"),
        (["--instances", "many"], "--instances"),
        (["--instances", "0"], "--instances"),
        (["--ctx-size", "100"], "--ctx-size"),
        (["--engine", "lama-server"], "lama-server"),
        (["--upstream", "ftp://x"], "--upstream"),
        (["--upstream", "http://x,slots=0"], "slots"),
        (["--memory-limit", "much"], "--memory-limit"),
        (["--port", "99999"], "--port"),
        (["--tls-cert", "/nowhere"], "--tls-key"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["frobnicate"], "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option(start_proxy: StartProxy, options: list[str], named: str) -> None:
    assert named in complaint(start_proxy(*options), 2)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("instnces = 2\n", "instances"),
        ("instances = -1\n", "instances"),
        ("queue-limit = 'x'\n", "queue-limit"),
        ("queue-limit = \n", "line 1"),
    ],
)
def test_a_wrong_configuration_file(start_proxy: StartProxy, tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "slotproxy.toml"
    path.write_text(text)
    sentence = complaint(start_proxy("--config", str(path)), 2)
    assert str(path) in sentence
    assert named in sentence


def test_a_wrong_environment_variable(start_proxy: StartProxy) -> None:
    assert "SLOTPROXY_QUEUE_LIMIT" in complaint(start_proxy(env={"SLOTPROXY_QUEUE_LIMIT": "few"}), 2)


def test_a_wrong_key_in_a_profile(start_proxy: StartProxy, model: str, tmp_path: Path) -> None:
    profile = write_profile(tmp_path)
    profile.write_text(profile.read_text().replace("stop = { term", "stop = { turm"))
    sentence = complaint(start_proxy("--engine", str(profile), "--model", model), 2)
    assert "turm" in sentence
    assert str(profile) in sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_directory_that_cannot_be_written(start_proxy: StartProxy, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    options = ("--state-dir", str(closed / "state"), "--upstream", "http://127.0.0.1:1")
    assert str(closed) in complaint(start_proxy(*options), 1)


def test_command_line_before_environment_before_file(start_proxy: StartProxy, tmp_path: Path) -> None:
    path = tmp_path / "slotproxy.toml"
    path.write_text('log-format = "json"\nqueue-limit = 7\nupstream = ["http://127.0.0.1:1"]\n')
    env = {"SLOTPROXY_QUEUE_LIMIT": "0", "SLOTPROXY_LOG_FORMAT": "json", "SLOTPROXY_CONFIG": str(path)}
    running = start_proxy(env=env).wait_listening()
    assert all(json.loads(line)["message"] for line in running.log.splitlines())
    text = start_proxy("--log-format", "text", env=env, folder=_folder(tmp_path / "other")).wait_listening()
    assert LOG_LINE.match(text.log)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_no_engine_is_spawned_when_the_configuration_is_wrong(
    start_proxy: StartProxy, model: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    script = tmp_path / "engine"
    script.write_text(f"#!/bin/sh\necho started >> {trace}\n")
    script.chmod(0o755)
    profile = write_profile(tmp_path, python=str(script))
    complaint(start_proxy("--engine", str(profile), "--model", str(tmp_path / "missing")), 2)
    assert not trace.exists()
