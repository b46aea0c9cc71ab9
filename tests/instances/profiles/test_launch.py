import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.models import model
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.profiles import catalog, launch
from slotproxy.instances.profiles.launch import Launch, Place
from slotproxy.instances.settings import SupplySettings

GGUF = ModelFacts(path=Path("/models/m.gguf"), name="m", kind="gguf", size=1)
DIRECTORY = ModelFacts(path=Path("/models/m"), name="m", kind="directory", size=1)
PLACE = Place(directory=Path("/state/instances/3"), port=4711)


def launch_of(engine: str, help_text: str = "", extra_args: tuple[str, ...] = ()) -> Launch:
    return Launch(
        profile=catalog.load(engine),
        program=("/bin/engine",),
        model=Path("/models/{port}.gguf"),
        name="m",
        ctx=2048,
        threads=3,
        extra_args=extra_args,
        help_text=help_text,
    )


def executable(path: Path, text: str = "#!/bin/sh\n") -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_ds4_gets_a_port_a_kv_directory_and_a_lock_of_its_own() -> None:
    ds4 = launch_of("ds4-server")
    command = " ".join(ds4.command(PLACE))
    assert "--port 4711 -c 2048 --kv-disk-dir /state/instances/3/kv" in command
    assert ds4.environment(PLACE, {})["DS4_LOCK_FILE"] == "/state/instances/3/engine.lock"


@pytest.mark.parametrize("engine", ["embedded", "llama-server"])
def test_saved_conversations_of_all_instances_are_in_one_folder(engine: str) -> None:
    other = Place(directory=Path("/state/instances/4"), port=4712)
    for place in (PLACE, other):
        assert "--slot-save-path /state/kv-store" in " ".join(launch_of(engine).command(place))
    assert launch_of(engine).uses_store
    assert not launch_of("ds4-server").uses_store


@pytest.mark.parametrize("engine", ["embedded", "llama-server"])
def test_where_there_is_no_such_folder_each_instance_has_its_own(engine: str) -> None:
    alone = replace(launch_of(engine), has_store=False)
    assert "--slot-save-path /state/instances/3/kv" in " ".join(alone.command(PLACE))
    assert not alone.uses_store


def test_the_users_own_arguments_come_last() -> None:
    assert launch_of("embedded", extra_args=("--threads", "1")).command(PLACE)[-2:] == ("--threads", "1")


def test_a_new_llama_server_gets_the_new_flags_and_an_old_one_only_those_it_knows() -> None:
    new = launch_of("llama-server", "--load-mode MODE --no-repack --no-ui --cache-ram N").command(PLACE)
    old = launch_of("llama-server", "--no-mmap --no-webui").command(PLACE)
    assert {"--load-mode", "mmap", "--no-repack", "--no-ui", "--cache-ram"} <= set(new)
    assert "--no-webui" in old
    assert not {"--load-mode", "--no-repack", "--no-ui", "--cache-ram"} & set(old)


def test_inherited_settings_of_engines_and_our_own_are_scrubbed() -> None:
    inherited = {
        "PATH": "/bin",
        "LLAMA_ARG_PORT": "1",
        "OLLAMA_HOST": "x",
        "DS4_LOCK_FILE": "/tmp/ds4.lock",
        "SLOTPROXY_API_KEY": "secret",
    }
    assert launch_of("llama-server").environment(PLACE, inherited) == {
        "PATH": "/bin",
        "INSTANCE_OF_SLOTPROXY": "/state/instances/3",
    }


def test_what_a_profile_keeps_is_not_scrubbed() -> None:
    inherited = {"OLLAMA_MODELS": "/store", "OLLAMA_HOST": "0.0.0.0", "HOME": "/home/me"}
    kept = launch_of("ollama").environment(PLACE, inherited)
    assert (kept["OLLAMA_MODELS"], kept["HOME"], kept["OLLAMA_HOST"]) == ("/store", "/home/me", "127.0.0.1:4711")


def test_each_of_several_ports_has_its_place_in_the_arguments() -> None:
    place = Place(directory=Path("/state/instances/3"), port=4711, further_ports=(5, 6))
    command = " ".join(launch_of("tgi").command(place))
    assert "--port 4711 --prometheus-port 5 --master-port 6 --shard-uds-path /state/instances/3/tgi" in command


@pytest.mark.parametrize(
    ("engine", "model"), [("mlx_lm.server", "default_model"), ("ollama", "m"), ("llama-server", None)]
)
def test_the_model_of_every_request_is_what_the_profile_says(engine: str, model: str | None) -> None:
    assert launch_of(engine).model_for_requests() == model


def test_the_model_named_in_the_warm_up_is_the_one_served() -> None:
    body = launch_of("embedded").warm_up_body(PLACE)
    assert body["model"] == "m"
    assert body["messages"][0]["content"] == "Say hi."


def test_it_runs_in_its_own_directory_unless_the_profile_says_otherwise() -> None:
    ours = launch_of("ds4-server")
    there = msgspec.structs.replace(ours.profile, cwd="/opt/ds4")
    assert ours.cwd(PLACE) == PLACE.directory
    assert Launch(profile=there, program=(), model=Path(), name="", ctx=1, threads=1).cwd(PLACE) == Path("/opt/ds4")


async def test_a_name_goes_to_the_engine_as_it_is_and_a_path_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "vllm")
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = SupplySettings(model=Path("m"), state_dir=Path("s"), engine="vllm")
    named = ModelFacts(path=Path("org/m:3b"), name="org/m:3b", kind="name", size=0)
    assert "org/m:3b" in (await launch.prepare(settings, named)).command(PLACE)
    there = ModelFacts(path=Path("m"), name="m", kind="directory", size=1)
    assert (await launch.prepare(settings, there)).model.is_absolute()


@pytest.mark.parametrize(
    ("changes", "threads"),
    [({"instances": 3}, 2), ({"instances": 20}, 1), ({}, 2), ({"max_instances": 2}, 4), ({"instances": 1}, 8)],
)
def test_all_engines_together_have_no_more_threads_than_there_are_cores(
    changes: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert launch.threads(SupplySettings(model=None, state_dir=Path(), **changes)) == threads


async def test_a_launch_is_refused_with_arguments_that_are_not_the_users_to_set(demo_model: Path) -> None:
    settings = SupplySettings(model=demo_model, state_dir=Path(), engine="embedded", engine_args=("-np", "4"))
    with pytest.raises(ConfigurationError, match=r"^-np after -- is set by slotproxy: give --instances before --"):
        await launch.prepare(settings, model.check(demo_model))
