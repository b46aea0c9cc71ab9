"""Whether instances really share the pages of their model."""

import re

from slotproxy.instances.errors import ModelError
from slotproxy.instances.memory import process_tree
from slotproxy.instances.models import model
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.readings import Mapping
from slotproxy.instances.wording import size

COPY = 0.6  # of the model's size that an engine holds of its own, or does not map: then it has a copy
OVERHEAD = 32 << 20  # bytes of heap and compute buffers that even the engine of a tiny model has
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def check(launch: Launch, pid: int, own: int) -> str | None:
    """`broken`, by what the engine `pid`, which holds `own` bytes of its own, maps of its model. Not for the event
    loop's thread.
    """
    try:
        facts = model.check(launch.model)
    except ModelError:  # gone while it runs: the engine has what it needs
        return None
    if SPLIT.search(facts.path.name):  # what the other parts hold is not known here
        return None
    one_file = facts.kind == "gguf"
    kv = facts.shape.kv_token
    return broken(
        weights=facts.size,
        kv=None if kv is None else kv * launch.ctx,
        own=own,
        mapping=process_tree.mapped(pid, facts.path) if one_file else None,
        seen=process_tree.DIVIDES and one_file,
    )


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
