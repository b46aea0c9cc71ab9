"""Against the `gguf` package: what it writes must be read, and of the demo model both must say the same."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from slotproxy.instances.models import gguf_facts
from slotproxy.instances.models.gguf_facts import GgufFacts, HeaderError, read
from slotproxy.instances.models.shape import Shape

WORDS = ["hello", "", "wörld"] * 100


def write(path: Path, *, words: list[str] | None = None, alignment: int | None = None) -> Path:
    """A model with every kind of header value and two tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(3)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_head_count(9)
    writer.add_head_count_kv([3, 3, 1])
    writer.add_token_list(WORDS if words is None else words)
    writer.add_token_scores([0.5] * 7)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_uint8("x.small", 1)
    writer.add_int64("x.large", -1)
    writer.add_bool("x.bool", True)
    writer.add_array("x.flags", [True, False])
    writer.add_tensor("a", np.zeros((5, 7), dtype=np.float32))
    writer.add_tensor("b", np.zeros((4, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_facts_are_those_that_were_written(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    facts = read(path)
    assert facts == GgufFacts(
        architecture="llama",
        context=2048,
        shape=Shape(layers=3, heads=9, kv_heads=(3, 3, 1), embedding=64),
        end=end_by_gguf(path),
    )
    assert facts.end <= path.stat().st_size


def end_by_gguf(path: Path) -> int:
    return max(int(t.data_offset) + int(t.n_bytes) for t in gguf.GGUFReader(path).tensors)


def test_an_alignment_of_the_files_own_is_obeyed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", alignment=256)
    facts = read(path)
    assert facts is not None
    assert facts.end == end_by_gguf(path)


def test_the_demo_model_is_complete_to_the_byte(demo_model: Path) -> None:
    assert read(demo_model) == GgufFacts(
        architecture="llama",
        context=8192,
        shape=Shape(layers=30, heads=9, kv_heads=3, embedding=576),
        end=demo_model.stat().st_size,
    )


def test_every_tensor_type_of_the_gguf_package_has_its_size() -> None:
    assert {kind.value: block for kind, block in gguf.GGML_QUANT_SIZES.items()}.items() <= gguf_facts.BLOCKS.items()


def test_what_the_kv_cache_depends_on_is_read_under_the_names_of_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "deepseek2")
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_head_count([8, 16])
    writer.add_head_count_kv(1)
    writer.add_key_length(576)
    writer.add_value_length(512)
    writer.add_key_length_mla(192)
    writer.add_sliding_window(128)
    writer.add_ssm_state_size(16)
    writer.add_uint32("deepseek2.full_attention_interval", 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    facts = read(path)
    assert facts is not None
    assert facts.shape == Shape(
        layers=2,
        embedding=256,
        heads=(8, 16),
        kv_heads=1,
        key_length=576,
        value_length=512,
        latent=True,
        window=128,
        recurrent=True,
        full_attention_interval=4,
    )


def test_numbers_by_layer_that_are_no_whole_numbers_count_as_not_said(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("llama.attention.head_count_kv", [1.0, float("nan")])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    facts = read(path)
    assert facts is not None
    assert facts.shape == Shape()


def test_a_tensor_type_of_tomorrow_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    data = path.read_bytes()
    known = struct.pack("<QQI", 32, 4, gguf.GGMLQuantizationType.Q8_0)  # the dimensions and the type of tensor b
    assert data.count(known) == 1
    path.write_bytes(data.replace(known, struct.pack("<QQI", 32, 4, 999)))
    facts = read(path)
    assert facts is not None
    assert facts.end <= path.stat().st_size


def test_a_version_of_tomorrow_is_left_to_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 4) + bytes(100))
    assert read(path) is None


def test_wherever_the_header_is_cut_off_it_is_called_broken(tmp_path: Path) -> None:
    data = write(tmp_path / "m.gguf", words=WORDS[:3]).read_bytes()
    header = data.rindex(b"b" + struct.pack("<I", 2)) + 1 + 4 + 2 * 8 + 4 + 8  # the end of tensor b's entry
    cut = tmp_path / "cut.gguf"
    for length in range(header):
        cut.write_bytes(data[:length])
        with pytest.raises(HeaderError):
            read(cut)
    cut.write_bytes(data[:header])
    facts = read(cut)
    assert facts is not None
    assert facts.end > header


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(struct.pack("<QQ", 0, 1 << 60), id="more entries than bytes"),
        pytest.param(struct.pack("<QQ", 1 << 60, 0), id="more tensors than bytes"),
        pytest.param(struct.pack("<QQQ", 0, 1, 1 << 62), id="a name longer than the file"),
        pytest.param(struct.pack("<QQ", 0, 1) + entry(b"a", 13, b""), id="a value of unknown type"),
        pytest.param(struct.pack("<QQ", 0, 1) + entry(b"a", 9, struct.pack("<IQ", 9, 1)), id="an array of arrays"),
        pytest.param(struct.pack("<QQ", 0, 1) + entry(b"a", 9, struct.pack("<IQ", 12, 1 << 60)), id="an endless array"),
        pytest.param(
            struct.pack("<QQ", 0, 1) + entry(b"general.alignment", 4, struct.pack("<I", 0)),
            id="an alignment of nothing",
        ),
        pytest.param(
            struct.pack("<QQ", 1, 0) + struct.pack("<QI", 0, 9) + bytes(200), id="a tensor of too many dimensions"
        ),
    ],
)
def test_a_header_that_makes_no_sense_is_called_broken(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + rest)
    with pytest.raises(HeaderError):
        read(path)


def test_only_the_header_is_read_however_large_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.gguf")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: it takes no space, but to read it would take minutes
    taken: list[int] = []
    take = gguf_facts._Header.take

    def counting(header: gguf_facts._Header, count: int) -> bytes:
        taken.append(count)
        return take(header, count)

    monkeypatch.setattr(gguf_facts._Header, "take", counting)
    assert read(path) is not None
    assert sum(taken) < 1 << 16
