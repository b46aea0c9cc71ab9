"""The policies that are compared, and the oracle that knows what is coming."""

from collections import defaultdict
from collections.abc import Callable

from slotproxy.instances.slots.routing import least_busy, round_robin
from tests.laboratory.dispatch import Dispatcher, Plain
from tests.laboratory.machines import Machine
from tests.laboratory.remembering import Remembering
from tests.laboratory.simulation import Run, Simulation
from tests.laboratory.texts import size
from tests.laboratory.trace import Trace

Maker = Callable[[Trace, Machine, int], Dispatcher]

BASELINE, WHOLE = "least-busy", "+ hand-over"
PINNED, ORACLE = "pinned by hand", "oracle"  # the same, but that the oracle's engines forget nothing
POLICIES: dict[str, Maker] = {
    "round-robin": lambda trace, machine, engines: Plain(round_robin, fair=False),
    BASELINE: lambda trace, machine, engines: Plain(least_busy, fair=False),
    "+ fair line": lambda trace, machine, engines: Plain(least_busy),
    "+ affinity": lambda trace, machine, engines: Remembering(machine, waits=False, hands_over=False),
    "+ waiting": lambda trace, machine, engines: Remembering(machine, waits=True, hands_over=False),
    WHOLE: lambda trace, machine, engines: Remembering(machine, waits=True, hands_over=True),
    PINNED: lambda trace, machine, engines: Plain(least_busy, pins(trace, machine, engines)),
    ORACLE: lambda trace, machine, engines: Plain(least_busy, pins(trace, machine, engines)),
}


def simulate(
    trace: Trace,
    machine: Machine,
    policy: str,
    engines: int = 0,
    around: Callable[[Dispatcher], Dispatcher] | None = None,
) -> Run:
    """`policy`: one of POLICIES. `engines`: of all hosts; 0: of one. `around`: what looks at the dispatcher's work."""
    count = engines or machine.engines
    dispatcher = POLICIES[policy](trace, machine, count)
    if around is not None:
        dispatcher = around(dispatcher)
    return Simulation(trace, machine, dispatcher, engines=count, forgets=policy != ORACLE).run()


def pins(trace: Trace, machine: Machine, engines: int) -> dict[int, frozenset[int]]:
    """For each conversation that goes on, every engine but its own, so that all engines have about as much to do.

    The largest is placed first, each on the engine that has least: this knows what every turn will cost.
    """
    goes_on, work = trace.followed_up(), defaultdict[int, float](float)
    for turn, known in zip(trace.turns, trace.known(), strict=True):
        if turn.conversation in goes_on:
            computing = (size(turn.prompt) - known) / machine.prefill
            work[turn.conversation] += computing + turn.answer.tokens / machine.decode
    load = [0.0] * engines
    everybody, placed = frozenset(range(engines)), dict[int, frozenset[int]]()
    for conversation in sorted(work, key=lambda one: (-work[one], one)):
        own = min(everybody, key=lambda engine: load[engine])
        load[own] += work[conversation]
        placed[conversation] = everybody - {own}
    return placed
