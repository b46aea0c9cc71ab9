"""Whether instances really share the pages of their model. Pure."""

from slotproxy.instances.planner import size
from slotproxy.instances.readings import Mapping

COPY = 0.6  # of the model's size that an engine holds of its own, or does not map: then it has a copy


def broken(*, weights: int, kv: int | None, own: int, mapping: Mapping | None, seen: bool) -> str | None:
    """A sentence when every instance has a copy of the weights; None when they share it, or that cannot be told.

    `weights` is the size of the model, `kv` what a full context takes (None: not known), `own` what the instance holds
    of its own at work, all in bytes. `mapping` is how it maps the model's file (None: not at all), if that was `seen`.
    """
    if not weights or own < COPY * weights:
        return None
    mapped = 0 if mapping is None else mapping.rss
    private = 0 if mapping is None else mapping.private_dirty
    copied = (seen and mapped - private < (1 - COPY) * weights) or (kv is not None and own - kv >= COPY * weights)
    if not copied:
        return None
    return (
        f"the instances do not share the model: each holds {size(own)} of its own, the model has {size(weights)}, of "
        f"which {size(mapped - private)} are mapped; an engine that maps its weights and does not repack or copy them "
        "would need less"
    )
