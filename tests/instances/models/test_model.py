import os
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from slotproxy.instances.errors import ModelError
from slotproxy.instances.models import gguf_facts, model
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.models.shape import Shape


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        model.check(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def test_the_demo_model_is_sound(demo_model: Path) -> None:
    facts = model.check(demo_model)
    assert (facts.path, facts.kind, facts.size) == (demo_model, "gguf", 98362432)
    assert facts.name == "SmolLM2-135M-Instruct.Q4_1"
    assert facts.gguf is not None
    assert facts.gguf.context == facts.context == 8192
    assert facts.architecture == "llama"
    assert facts.shape.kv_token == 23040  # bytes: what the engine prints as its KV buffer, divided by the context


def test_a_directory_with_a_config_is_a_model_as_large_as_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "Small-4bit"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 2048}')
    (folder / "tokenizer.json").write_bytes(bytes(500))
    (folder / "model-1-of-2.safetensors").write_bytes(bytes(1000))
    (folder / "model-2-of-2.safetensors").write_bytes(bytes(300))
    found = model.check(folder)
    assert (found.path, found.name, found.kind, found.size) == (folder, "Small-4bit", "directory", 1300)
    assert (found.architecture, found.context, found.shape) == ("llama", 2048, Shape())


def test_a_directory_without_safetensors_is_as_large_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("nonsense")
    (tmp_path / "weights.npz").write_bytes(bytes(1000))
    found = model.check(tmp_path)
    assert found == ModelFacts(path=tmp_path, name=tmp_path.name, kind="directory", size=1008)
    assert (found.architecture, found.context, found.shape) == (None, None, Shape())


def test_a_directory_without_a_config_holds_no_model(tmp_path: Path) -> None:
    assert "without a config.json" in refusal(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "there is no model at" in refusal(tmp_path / "no.gguf")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_may_not_be_read_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "closed"
    path.touch() if kind == "file" else path.mkdir()
    path.chmod(0)
    assert "cannot be read: Permission denied" in refusal(path)


def test_an_error_of_the_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_facts, "read", fail)
    assert "cannot be read: Input/output error" in refusal(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "neither a file nor a directory" in refusal(path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.touch()
    assert "is empty" in refusal(path)


def test_another_kind_of_file_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("<html>404")
    assert "is not a GGUF file" in refusal(path)


def test_a_file_that_is_cut_off_in_the_weights_tells_how_much_is_missing(tmp_path: Path, demo_model: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(demo_model.read_bytes()[: -(3 << 20)])
    assert "its last 3.0 MiB are missing" in refusal(path)


def test_one_missing_byte_is_noticed(tmp_path: Path, demo_model: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(demo_model.read_bytes()[:-1])
    assert "its last 1 bytes are missing" in refusal(path)


def test_a_file_that_is_cut_off_in_the_header_is_corrupt_or_incomplete(tmp_path: Path, demo_model: Path) -> None:
    path = tmp_path / "m.gguf"
    with demo_model.open("rb") as file:
        path.write_bytes(file.read(3000))
    assert "is corrupt or incomplete: it ends within its header" in refusal(path)


def test_the_check_keeps_numpy_out_of_the_proxy(demo_model: Path) -> None:
    program = (
        "import sys, pathlib; from slotproxy.instances.models import model; "
        "model.check(pathlib.Path(sys.argv[1])); sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(demo_model)], check=False).returncode == 0


def split(folder: Path, *, parts: int) -> Path:
    """The first of a model's files; the others are as long as their number says."""
    for number in range(1, parts + 1):
        writer = gguf.GGUFWriter(folder / f"m-{number:05}-of-{parts:05}.gguf", "llama")
        writer.add_uint16("split.count", parts)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    return folder / f"m-00001-of-{parts:05}.gguf"


def test_a_model_in_several_files_is_as_large_as_all_of_them(tmp_path: Path) -> None:
    first = split(tmp_path, parts=3)
    os.truncate(tmp_path / "m-00002-of-00003.gguf", 5000)
    others = sum((tmp_path / f"m-0000{number}-of-00003.gguf").stat().st_size for number in (1, 3))
    assert model.check(first).size == 5000 + others


def test_a_missing_part_of_a_model_is_named(tmp_path: Path) -> None:
    first = split(tmp_path, parts=3)
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    assert "is in 3 files, and m-00003-of-00003.gguf is missing" in refusal(first)


def test_a_part_under_a_name_of_its_own_is_left_to_the_engine(tmp_path: Path) -> None:
    path = split(tmp_path, parts=2).rename(tmp_path / "mine.gguf")
    assert model.check(path).size == path.stat().st_size


def test_a_name_is_taken_only_where_an_engine_resolves_names_and_never_for_a_path() -> None:
    facts = model.check(Path("llama3.2:3b"), names=True)
    assert (facts.kind, facts.name, facts.path, facts.context) == ("name", "llama3.2:3b", Path("llama3.2:3b"), None)
    for path, names in (("llama3.2:3b", False), ("/nowhere/m", True), ("../nowhere/m", True)):
        with pytest.raises(ModelError, match="there is no model at"):
            model.check(Path(path), names=names)


@pytest.mark.parametrize(
    ("said", "pooling"), [(None, None), (0, "none"), (1, "mean"), (2, "cls"), (3, "last"), (9, None)]
)
def test_how_a_model_pools_is_what_its_header_says(tmp_path: Path, said: int | None, pooling: str | None) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "bert")
    if said is not None:
        writer.add_uint32("bert.pooling_type", said)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert model.check(tmp_path / "m.gguf").pooling == pooling
