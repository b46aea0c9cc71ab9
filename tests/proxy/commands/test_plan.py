"""`slotproxy plan`: what it prints for people and for programs, and what it refuses in one sentence."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.memory import process_tree
from slotproxy.instances.models import demo, model
from slotproxy.instances.profiles import launch
from slotproxy.instances.scaling import calibration
from slotproxy.proxy.commands import plan
from slotproxy.proxy.options.sources import load, read


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def run(*argv: str) -> int:
    invocation = read(["plan", *argv], {})
    return plan.run(invocation.settings, as_json=invocation.json)


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert run("--json", *argv) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def page(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(*argv) == 0
    return capsys.readouterr().out


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        run(*argv)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_the_demo_model_is_planned_by_its_header(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    found = document(capsys, "--memory-limit", "1GiB", "--ctx-size", "8192")
    assert found["model"] == {
        "name": "SmolLM2-135M-Instruct.Q4_1",
        "path": str(demo_model),
        "kind": "gguf",
        "size": 98362432,
        "architecture": "llama",
        "trained_context": 8192,
    }
    assert found["context"] == {"each": 8192, "all": 5 * 8192, "rule": "divided", "each_in_one_process": 8192 // 5}
    estimate = found["estimate"]
    assert (estimate["weights"], estimate["kv_per_token"], estimate["kv"]) == (98362432, 23040, 8192 * 23040)
    assert estimate["fit"]["limit"] == ((1 << 30) - 98362432) // (8192 * 23040) == 5
    assert found["machine"]["limit"] == 1 << 30
    assert (found["instances"]["requested"], found["instances"]["expected"]) == (None, 5)
    assert found["warnings"] == []


def test_without_a_model_it_is_the_demo_model(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    assert document(capsys)["model"]["path"] == str(demo_model) == str(demo.location())


def test_the_page_has_what_the_document_has(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    text = page(capsys, "--memory-limit", "1GiB", "--ctx-size", "8192")
    rows = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in text.splitlines() if "  " in line}
    assert rows["context of each instance"] == "8192 tokens"
    assert rows["context of each of 5 slots in one process"] == "1638 tokens"
    assert rows["weights, once for all"] == "93.8 MiB"
    assert rows["KV cache of a token"] == "22.5 KiB"
    assert rows["KV cache of each instance"] == rows["one more instance"] == "180.0 MiB"
    assert rows["5 together"] == "993.8 MiB"
    assert rows["fit under the limit"] == "5"
    assert "fit under 80% of the memory" in rows
    assert "Instances: at most 5 instances" in text


def test_numbers_asked_for_are_evaluated_by_the_one_function(
    capsys: pytest.CaptureFixture[str], demo_model: Path
) -> None:
    found = document(capsys, "--instances", "9", "--ctx-size", "2048")
    assert found["parallel_slots"] == {"requested": 9, "effective": 8, "warning": "Clamped"}
    assert found["instances"]["expected"] == 9
    assert found["warnings"] == ["9 instances, started as asked, are more than --max-instances 8"]
    assert document(capsys, "--ctx-size", "600")["parallel_slots"]["warning"] == "BelowPerSlotFloor"


def test_what_was_measured_stands_beside_the_estimate(
    capsys: pytest.CaptureFixture[str], demo_model: Path, tmp_path: Path
) -> None:
    argv = ["--state-dir", str(tmp_path), "--max-instances", "4"]
    supply = load(argv, {}).supply(demo_model)
    launched = asyncio.run(launch.prepare(supply, model.check(demo_model)))
    found = calibration.Calibration(
        instances=2,
        reason="memory",
        sentence="no 3rd instance: it would need about 100 MiB, 5.0 MiB free",
        metric="resident",
        cost=100 << 20,
        used=300 << 20,
        limit=305 << 20,
        rates=(10.0, 0.0),
        at=86400.0,
    )
    calibration.keep(tmp_path, calibration.fingerprint(launched, supply, process_tree.effective_total()), found)
    text = page(capsys, *argv)
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert "measured 1970-01-02" in text
    assert rows["one more instance"][-4:] == ["90.0", "MiB", "100.0", "MiB"]
    assert rows["2 together"][-4:] == ["273.8", "MiB", "300.0", "MiB"]
    assert rows["tokens per second of 1"][-1] == "10.0"
    assert rows["tokens per second of 2"][-1] == "unknown"
    assert (
        "Instances: 2 instances, measured 1970-01-02 (no 3rd instance: it would need about 100 MiB, 5.0 MiB free)."
        in text
    )
    measured = document(capsys, *argv)["measured"]
    assert (measured["at"], measured["one_more"], measured["all"]) == ("1970-01-02T00:00:00Z", 100 << 20, 300 << 20)
    assert document(capsys, "--state-dir", str(tmp_path / "other"))["measured"] is None


def test_a_warning_stands_on_the_page_with_its_word(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    assert "\nwarning: --ctx-size 600: 600 tokens of context" in page(capsys, "--ctx-size", "600")


def test_an_engine_that_is_missing_is_said_and_the_plan_is_made(
    capsys: pytest.CaptureFixture[str], demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    text = page(capsys, "--engine", "ds4-server")
    assert "Nothing would start now: the engine ds4-server is not installed: build ds4" in text
    assert "context of each instance" in text
    assert document(capsys, "--engine", "ds4-server")["engine"]["installed"] is False


def test_a_model_that_only_its_engine_knows_has_no_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--engine", "ollama", "--model", "llama3.2:3b"]
    found = document(capsys, *argv)
    assert (found["model"]["name"], found["estimate"]["one_more"]) == ("llama3.2:3b", None)
    assert found["context"]["each_in_one_process"] is None
    assert "0 bytes" not in page(capsys, *argv)


def test_arguments_that_a_start_would_refuse_are_refused(demo_model: Path) -> None:
    assert refusal("--", "--port", "1").startswith("--port after -- is set by slotproxy")


def test_every_option_of_serve_may_stand_there(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    argv = ["--port", "9", "--queue-limit", "1", "--instances", "2", "--", "--threads", "1"]
    assert document(capsys, *argv)["instances"]["expected"] == 2


def test_a_model_directory_is_planned_by_its_config_and_its_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "Small-4bit"
    folder.mkdir()
    config = {"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config | {"head_dim": 8, "max_position_embeddings": 4096}))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    profile = tmp_path / "engine.toml"
    text = """
        name = "mine"
        summary = "mine"
        install = "install it"
        models = ["directory"]
        executable = "true"
        args = []
        ctx = 4096
        [ready]
        [warm-up]
        body = {}
        [idle]
        kind = "delay"
        [memory]
        shared = false
    """
    profile.write_text("\n".join(line.strip() for line in text.splitlines()))
    found = document(capsys, "--model", str(folder), "--engine", str(profile), "--memory-limit", "1MiB")
    kv = 2 * 2 * 16 * 2 * 4096
    assert (found["model"]["kind"], found["model"]["size"]) == ("directory", 1000)
    assert found["estimate"]["one_more"] == 1000 + kv  # every instance has a copy of its own
    assert found["estimate"]["fit"]["limit"] == (1 << 20) // (1000 + kv)
    assert "mine does not share" in " ".join(found["warnings"])


def test_upstreams_alone_mean_that_nothing_is_started_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "--upstream", "http://h:1") == {"model": None, "upstreams": ["http://h:1"]}
    assert "http://h:1" in page(capsys, "--upstream", "http://h:1")


def test_upstreams_beside_a_model_are_named(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    argv = ["--model", str(demo_model), "--upstream", "http://h:1"]
    assert document(capsys, *argv)["upstreams"] == ["http://h:1"]
    assert "\nbeside   http://h:1\n" in page(capsys, *argv)


def test_what_no_engine_could_load_is_refused(demo_model: Path, tmp_path: Path) -> None:
    assert "there is no model at" in refusal("--model", str(tmp_path / "no.gguf"))
    cut = tmp_path / "cut.gguf"
    with demo_model.open("rb") as file:
        cut.write_bytes(file.read(3000))
    assert "is corrupt or incomplete" in refusal("--model", str(cut))
    other = tmp_path / "other.gguf"
    other.write_text("<html>")
    assert "is not a GGUF file" in refusal("--model", str(other))
    assert "neither a file nor a directory" in refusal("--model", "/dev/null")
    assert "there is no engine profile 'x'" in refusal("--engine", "x")
    assert "must be a whole number, 512 or more" in refusal("--ctx-size", "511")
