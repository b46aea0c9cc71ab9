"""Whether instances really share the pages of their model. Pure."""

from slotproxy.instances.readings import Mapping
from slotproxy.instances.wording import size

COPY = 0.6  # of the model's size that an engine holds of its own, or does not map: then it has a copy
OVERHEAD = 32 << 20  # bytes of heap and compute buffers that even the engine of a tiny model has


def broken(*, weights: int, kv: int | None, own: int, mapping: Mapping | None, seen: bool) -> str | None:
    """A sentence when every instance has a copy of the weights; None when they share it, or that cannot be told.

    `weights` is the size of the model, `kv` what a full context takes (None: not known), `own` what the instance holds
    of its own at work, all in bytes. `mapping` is how it maps the model's file (None: not at all), if that was `seen`.
    """
    if not weights or own < COPY * weights:
        return None
    mapped = 0 if mapping is None else mapping.rss
    written = 0 if mapping is None else mapping.written
    unmapped = seen and mapped - written < (1 - COPY) * weights
    surplus = kv is not None and own - kv >= COPY * weights + OVERHEAD
    if not (unmapped or surplus):
        return None
    return (
        f"the instances do not share the model: each holds {size(own)} of its own beside the {size(mapped - written)} "
        f"that it maps of the model's {size(weights)}; an engine that maps its weights, and neither copies nor repacks "
        "them, needs less"
    )
