"""What instances of a model are expected to cost, by its file alone. Pure.

Weights and KV cache are all that a file tells. Compute buffers, the engine's heap and what it keeps of old prompts come
on top, so an estimate is a lower bound; only a measurement knows the rest.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of instances that all have the same context. Sizes are bytes."""

    weights: int
    kv: int | None  # of one instance with a full context; None where the file does not tell
    shares: bool  # all instances map one copy of the weights

    @property
    def once(self) -> int:
        """What is there once, however many instances run."""
        return self.weights if self.shares else 0

    @property
    def each(self) -> int | None:
        """What one more instance costs."""
        own = 0 if self.shares else self.weights
        if self.kv is None:
            return own or None
        return own + self.kv

    def total(self, instances: int) -> int | None:
        return None if self.each is None else self.once + instances * self.each

    def fitting(self, limit: int) -> int | None:
        """How many stay within `limit` together; None where that cannot be told, as for a model without a KV cache."""
        if not self.each:
            return None
        return max(0, limit - self.once) // self.each
