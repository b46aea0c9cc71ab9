"""The table of docs/routing.md, made of what the laboratory told."""

from collections.abc import Iterator, Mapping, Sequence

from tests.laboratory.contenders import BASELINE, ORACLE, WHOLE
from tests.laboratory.figures import Figures

Told = Mapping[tuple[str, str], Mapping[str, Figures]]  # by machine and trace; by policy

MACHINES = {"two-cores": "2 cores", "laptop": "laptop"}
TRACES = {
    "chat-2": "2 chats",
    "chat-6": "6 chats",
    "chat-12": "12 chats",
    "agents-plain": "6 coding agents",
    "agents": "the same, a line changes",
    "seeding": "20 that begin alike",
    "flood": "8 chats beside a flood",
    "recorded": "5 chats, recorded",
}
HEADER = ("simulated", "least busy", "slotproxy", "oracle", "computed", "slotproxy", "longest wait", "slotproxy")
NEEDED = (BASELINE, WHOLE, ORACLE)


def rows(told: Told) -> Iterator[Sequence[str]]:
    """Seconds to the first token of later turns, mean; prompt tokens computed; the longest wait in fair shares."""
    for machine, on in MACHINES.items():
        for trace, what in TRACES.items():
            policies = told.get((machine, trace))
            if policies is not None and all(name in policies for name in NEEDED):
                plain, ours, oracle = (policies[name] for name in NEEDED)
                means = (f"{one.later_mean:.2f}" for one in (plain, ours, oracle))
                shares = (f"{one.unfair:.1f}" for one in (plain, ours))
                yield (f"{on}: {what}", *means, f"{plain.ratio:.2f}", f"{ours.ratio:.2f}", *shares)
