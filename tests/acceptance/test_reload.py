"""SIGHUP: the configuration is read again, and what it does not concern goes on undisturbed."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients import ask, chat
from tests.running import Running, StartProxy, wait_for, write_profile


@pytest.fixture
def configured(start_proxy: StartProxy, tmp_path: Path) -> Callable[..., Running]:
    """Starts a proxy by a file of options; `write` changes the file and hangs up."""
    (tmp_path / "config.json").write_text("{}")  # what makes a directory a model
    profile = write_profile(tmp_path)

    def start(**options: Any) -> Running:
        write(tmp_path, **options)
        engine = ("--model", str(tmp_path), "--engine", str(profile))
        return start_proxy(*engine, "--config", str(tmp_path / "slotproxy.toml")).wait_ready(options["instances"])

    return start


def write(folder: Path, **options: Any) -> None:
    lines = [f"{name.replace('_', '-')} = {value!r}" for name, value in options.items()]
    (folder / "slotproxy.toml").write_text("\n".join(lines) + "\n")


def hang_up(running: Running, folder: Path, said: str, **options: Any) -> None:
    """With these options in the file; until the log says `said` once more."""
    before = running.log.count(said)
    write(folder, **options)
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: running.log.count(said) > before, said)


def test_limits_and_keys_change_and_no_engine_is_restarted(configured: Callable[..., Running], tmp_path: Path) -> None:
    running = configured(instances=1, queue_limit=64)
    pids = running.pids()
    keys = tmp_path / "keys"
    keys.write_text("k\n")
    said = "only after a new start: --host"
    hang_up(running, tmp_path, said, instances=1, queue_limit=0, api_key_file=str(keys), host="0.0.0.0")
    answer = asyncio.run(ask(running.port, "POST", "/v1/chat/completions", chat()))
    assert (answer.status, answer.code) == (401, "invalid_api_key")
    answer = asyncio.run(ask(running.port, "GET", "/slots", headers={"x-api-key": "k"}))
    assert [slot["pid"] for slot in answer.json()] == pids


def test_more_instances_are_started_and_fewer_are_drained(configured: Callable[..., Running], tmp_path: Path) -> None:
    running = configured(instances=1)
    first = running.pids()
    hang_up(running, tmp_path, "new values: --instances", instances=3)
    wait_for(lambda: running.ready_count() == 3, "three ready")
    assert first[0] in running.pids()
    hang_up(running, tmp_path, "new values: --instances", instances=1)
    wait_for(lambda: running.pids() == first, "one left")


def test_engines_are_replaced_in_turn_when_what_they_are_started_with_changes(
    configured: Callable[..., Running], tmp_path: Path
) -> None:
    running = configured(instances=2)
    before = set(running.pids())
    ready = []

    def replaced() -> bool:
        ready.append(running.ready_count())
        return not before & set(running.pids()) and ready[-1] == 2

    hang_up(running, tmp_path, "new values: --ctx-size", instances=2, ctx_size=2048)
    wait_for(replaced, "two new engines")
    assert min(ready) >= 1
    assert {slot["n_ctx"] for slot in running.slots()} == {2048}


def test_a_bad_file_changes_nothing_and_is_named(configured: Callable[..., Running], tmp_path: Path) -> None:
    running = configured(instances=1)
    pids = running.pids()
    refused = "the configuration stays as it was: "
    for number, text in enumerate(
        ("instances = 'many'", "instances = = 3", "instancse = 3", "engine-bin = '/nowhere'")
    ):
        (tmp_path / "slotproxy.toml").write_text(f"{text}\nqueue-limit = 3\n")
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda number=number: running.log.count(refused) > number, text)  # type: ignore[misc]
    assert "Traceback" not in running.log
    assert running.pids() == pids
    assert asyncio.run(ask(running.port, "POST", "/v1/chat/completions", chat())).status == 200
