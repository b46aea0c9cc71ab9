"""What a model keeps for each token of its context, by the numbers in its header or config. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

F16 = 2  # bytes of a number in the KV cache, unless an engine is told to use another type


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parts of a model that its KV cache depends on. None: not said. A tuple: for each layer apart."""

    layers: int | None = None
    embedding: int | None = None
    heads: int | tuple[int, ...] | None = None
    kv_heads: int | tuple[int, ...] | None = None  # None: as many as heads
    key_length: int | None = None  # numbers of one head's key; None: embedding / heads
    value_length: int | None = None
    latent: bool = False  # multi-head latent attention: values are part of what is kept as key
    full_attention_interval: int | None = None  # only each so many-th layer has a KV cache
    window: int | None = None  # tokens that some layers look back at most
    recurrent: bool = False  # some layers keep a state of fixed size instead

    @property
    def kv_token(self) -> int | None:
        """Bytes of K and V in f16 for one token, all layers together; None where the numbers do not suffice.

        As llama.cpp computes it (llama-kv-cache.cpp): keys and values of every KV head of every layer.
        """
        layers = self.layers
        heads = _by_layer(self.heads, layers)
        kv_heads = heads if self.kv_heads is None else _by_layer(self.kv_heads, layers)
        if not layers or not kv_heads:
            return None
        interval = self.full_attention_interval or 1
        kept = sum(count for layer, count in enumerate(kv_heads, start=1) if layer % interval == 0)
        default = self.embedding // heads[0] if self.embedding is not None and heads and heads[0] else None
        key = self.key_length if self.key_length is not None else default
        value = self.value_length if self.value_length is not None else default
        if key is None or value is None:
            return None
        found = kept * (key + (0 if self.latent else value)) * F16
        return found if found >= 0 else None  # a broken header may say anything

    @property
    def at_most(self) -> str | None:
        """Why `kv_token` times the context may be more than an engine takes; None: nothing says so."""
        if self.window:
            return f"some layers may look back {self.window} tokens only, and then keep less"
        if self.recurrent and self.full_attention_interval is None and not isinstance(self.kv_heads, tuple):
            return "some layers keep a state of fixed size instead of keys and values"
        return None


def _by_layer(count: int | Sequence[int] | None, layers: int | None) -> tuple[int, ...]:
    """One number for each layer; empty where that is not known."""
    if count is None or layers is None or not 0 < layers <= 4096:
        return ()
    if isinstance(count, int):
        return (count,) * layers
    return tuple(count) if len(count) >= layers else ()
