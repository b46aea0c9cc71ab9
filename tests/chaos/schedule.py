"""What is done to whom and when: the same for the same seed. Pure."""

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW, MOST = 300.0, 4  # seconds; failures of one instance within them: one more and a further one is quarantine
PAUSE = (0.1, 1.0)  # seconds; shorter than the proxy's patience
LEAD = 0.5  # seconds at the beginning without a fault


class Fault(enum.Enum):
    """The values are the names in the report."""

    # These cost the engine its life.
    KILL = "engine killed (SIGKILL)"
    STOP = "engine stopped (SIGSTOP)"
    DIE = "engine dies at a request"
    HANG = "engine hangs at a request"
    # These do not.
    PAUSE = "engine paused (SIGSTOP, SIGCONT)"
    RESTART = "restart by the API"
    ROLL = "restart of all in turn by the API"
    GUARDIAN = "guardian killed (SIGKILL)"
    RELOAD = "SIGHUP"
    BURST = "more requests than the queue takes"
    RESET = "connections to an upstream reset"
    REFUSE = "upstream refuses connections"


DEADLY = frozenset({Fault.KILL, Fault.STOP, Fault.DIE, Fault.HANG})
# How often, in relation to each other. Only the fake engine can be told to die or hang; only the real engines' world
# has an upstream behind a relay.
ANYWHERE: dict[Fault, float] = {
    Fault.KILL: 4,
    Fault.STOP: 3,
    Fault.PAUSE: 4,
    Fault.RESTART: 2,
    Fault.ROLL: 0.5,
    Fault.GUARDIAN: 0.5,
    Fault.RELOAD: 1,
    Fault.BURST: 3,
}
ONLY: dict[str, dict[Fault, float]] = {"fake": {Fault.DIE: 3, Fault.HANG: 2}, "real": {Fault.RESET: 4, Fault.REFUSE: 2}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault."""

    at: float  # seconds from the beginning
    world: str
    fault: Fault
    target: int  # number of the instance
    seconds: float  # how long, for faults that last
    seed: int  # for whatever else it has to choose


def schedule(seed: int, seconds: float, worlds: Mapping[str, int], every: float = 1.2) -> tuple[Injection, ...]:
    """Faults for `seconds`, one in `every` seconds and world on average; `worlds` maps names to instances.

    No instance is made to fail so often that the proxy would be right to give it up.
    """
    dice = random.Random(seed)
    found = []
    for world, instances in sorted(worlds.items()):
        deaths: dict[int, list[float]] = {number: [] for number in range(instances)}
        weights = ANYWHERE | ONLY[world]
        at = LEAD
        while (at := at + dice.expovariate(1 / every)) < seconds:
            target = dice.randrange(instances)
            fault = dice.choices(list(weights), list(weights.values()))[0]
            if fault in DEADLY:
                if sum(at - then < WINDOW for then in deaths[target]) >= MOST:
                    fault = Fault.PAUSE
                else:
                    deaths[target].append(at)
            lasts = dice.uniform(*PAUSE)
            one = Injection(at=at, world=world, fault=fault, target=target, seconds=lasts, seed=dice.randrange(1 << 30))
            found.append(one)
    return tuple(sorted(found, key=lambda one: one.at))
