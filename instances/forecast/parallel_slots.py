"""How many requests at a time are sensible for one context: a clamp and a warning. Pure.

The bounds, the floor and the two warnings are those of Backend.AI GO (lablup/backend.ai-go, issue 3025), so that both
give the same answer for the same numbers. The command line, the HTTP endpoint and `slotproxy plan` all ask here.
"""

from dataclasses import dataclass

MINIMUM = 1
MAXIMUM = 8  # suits laptops and desktops; nothing in the engines forbids more
FLOOR = 1024  # tokens of context for each slot; a system prompt with tools takes 600 to 900 alone

CLAMPED = "Clamped"
BELOW_FLOOR = "BelowPerSlotFloor"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSlots:
    """The answer. A warning does not forbid: the value is applied, and `message` says why it is questionable."""

    requested: int
    effective: int
    warning: str | None  # CLAMPED, BELOW_FLOOR or None
    message: str | None  # the warning for people


def evaluate_parallel_slots(requested: int, context_size: int | None, *, maximum: int = MAXIMUM) -> ParallelSlots:
    """Of `requested` slots that divide `context_size` tokens, how many to use, and what is to be said about it.

    `context_size` is the whole context, None where it is not known. A context too small for each slot is the graver of
    two warnings; that the number was clamped as well shows in `effective`.
    """
    effective = min(max(requested, MINIMUM), maximum)
    warning, message = None, None
    if context_size is not None and context_size < FLOOR * effective:
        each = context_size // effective
        warning = BELOW_FLOOR
        message = f"{each} tokens of context for each slot are few: most conversations need {FLOOR} or more"
    elif effective != requested:
        warning = CLAMPED
        message = f"{requested} slots are outside {MINIMUM} to {maximum}"
    return ParallelSlots(requested=requested, effective=effective, warning=warning, message=message)
