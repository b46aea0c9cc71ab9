"""A model directory as MLX and transformers read it, with random weights and one token per byte: it talks nonsense."""

import json
import struct
from pathlib import Path

import numpy as np

SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>")
VOCABULARY = 256 + len(SPECIAL)
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}<|assistant|>"


def make(folder: Path, *, hidden: int = 64, layers: int = 2) -> Path:
    """Write it into `folder`; its weights take about 32 x layers x hidden^2 bytes. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": hidden * 4 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 8192,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": 256,
    }
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0], "chat_template": TEMPLATE}
    for name, document in (
        ("config.json", config),
        ("tokenizer.json", _tokenizer()),
        ("tokenizer_config.json", tokenizer),
    ):
        (folder / name).write_text(json.dumps(document))
    _write_weights(folder / "model.safetensors", hidden, layers)
    return folder


def _letters() -> list[str]:
    """What byte-level tokenizers write for each byte: itself where it can be seen, else a letter above 255."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(hidden)) for byte in range(256)]


def _tokenizer() -> dict[str, object]:
    added = [
        {"id": 256 + number, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False}
        for number, text in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "ignore_merges": False},
    }


def _write_weights(path: Path, hidden: int, layers: int) -> None:
    random = np.random.default_rng(42)
    inner = hidden * 4 // 3
    shapes = {"model.embed_tokens": (VOCABULARY, hidden), "lm_head": (VOCABULARY, hidden), "model.norm": (hidden,)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{part}_proj": (hidden, hidden) for part in "qkvo"}
        shapes |= {f"{at}.mlp.{part}_proj": (inner, hidden) for part in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj": (hidden, inner)}
        shapes |= {f"{at}.{norm}_layernorm": (hidden,) for norm in ("input", "post_attention")}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    pieces, end = [], 0
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32) * hidden**-0.5 if len(shape) == 2 else np.ones(shape)
        if name == "lm_head":
            values[256:] = 0.0  # so that an answer is as long as was asked for
        data = values.astype(np.float32).tobytes()
        header[f"{name}.weight"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + len(data)]}
        pieces.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))
