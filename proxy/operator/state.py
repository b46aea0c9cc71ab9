"""The state document of a snapshot, and what counts as a change of it. Pure: the caller has the clock."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, is_dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from slotproxy.instances import snapshot as supply
from slotproxy.proxy.operator.document import DecisionCount, Member, StateDocument


def state_of(snapshot: supply.Snapshot, *, version: str, queued: int, now: float) -> StateDocument:
    """What the operator is shown of `snapshot`. `now`: seconds on the monotonic clock."""
    return msgspec.convert(
        {
            **_known(snapshot, StateDocument),
            "version": version,
            "queued": queued,
            "members": tuple(member_of(member, now) for member in snapshot.members),
            "decision_counts": _counted(snapshot.decision_counts),
        },
        StateDocument,
        from_attributes=True,
    )


def member_of(member: supply.Member, now: float) -> Member:
    """One member; the moment since which it is in its state, which means nothing elsewhere, becomes an age."""
    return msgspec.convert(
        {
            **_known(member, Member),
            "seconds_in_state": round(now - member.since, 1),
            "ours": member.kind is supply.Kind.INSTANCE,
        },
        Member,
        from_attributes=True,
    )


def mark_of(document: StateDocument) -> bytes:
    """Equal for two documents in which nothing differs but that time has passed."""
    members = tuple(_ageless(member) for member in document.members)
    return msgspec.json.encode(replace(document, members=members))


def _ageless(member: Member) -> Member:
    traffic = member.traffic and replace(member.traffic, pause=0.0)
    return replace(member, seconds_in_state=0.0, traffic=traffic)


def _known(value: object, document: type[msgspec.Struct]) -> dict[str, Any]:
    """The attributes of `value` that the document has, too."""
    return {name: getattr(value, name) for name in document.__struct_fields__ if hasattr(value, name)}


def _counted(counts: object) -> tuple[DecisionCount, ...]:
    """JSON has no pairs for keys: counts by (decision, reason), or rows of both and a number, become a list."""
    rows: Iterable[Any]
    if isinstance(counts, Mapping):
        rows = [(*key, count) for key, count in counts.items()]
    else:
        assert isinstance(counts, Iterable)
        rows = [astuple(row) if is_dataclass(row) and not isinstance(row, type) else row for row in counts]
    return tuple(DecisionCount(decision=decision, reason=reason, count=count) for decision, reason, count in rows)
