"""The latest readings of memory and what they add up to: used, available, the cost of one more, stalls.

Reading the engines makes the kernel walk their page tables, which takes longer the more memory they have: the time
between two such readings follows from what the last one took.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from slotproxy.instances.lifecycle import State
from slotproxy.instances.memory import machine as machines
from slotproxy.instances.readings import Pressure, Reading
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.scaling.watermarks import reserve
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.upstream import Upstream
from slotproxy.instances.wording import size

logger = logging.getLogger(__name__)

MACHINE_EVERY = 1.0  # seconds between looks at the machine as a whole
ENGINES_EVERY = 2.0  # seconds between readings of the engines, at least
SHARE = 0.005  # of one core that reading them may take
STALLED = 0.10  # share of the time some task waits for memory: from here on it is too much
SWAPPING = 16 << 20  # bytes read back from swap in a second, likewise
FAULTING = 200  # major page faults of the engines in a second, likewise, if memory is short


class MemoryMonitor:
    """Reads for one supply. `instances` are those that run now, the ones on their way out included."""

    def __init__(
        self,
        settings: SupplySettings,
        instances: Callable[[], Sequence[Instance]],
        beside: Callable[[], int] = lambda: 0,
    ) -> None:
        """`beside`: bytes of memory that are used for the instances outside of them."""
        self._instances = instances
        self._beside = beside
        self._settings = settings
        self.machine = machines.choose(settings.memory_metric)
        self.total = self.machine.total()
        self.available = 0  # bytes
        self.pressure = Pressure()
        self.stall = ""  # how the machine stalls, for people; "" if it does not
        self.reading_took = 0.0  # seconds that reading the engines took last
        self._pressure_at = 0.0
        self._unreadable = False  # the last reading failed
        self._held: dict[Upstream, int] = {}  # the most each engine held of its own
        self._peaks: dict[int, int] = {}  # the most that so many instances used together
        self._expected = 0  # bytes that an engine will hold of its own, by calibration

    def reconfigure(self, settings: SupplySettings) -> None:
        """From now on by these settings. The metric stays: costs were measured in it."""
        self._settings = settings

    def forget(self) -> None:
        """Other engines are going to run: what was measured does not hold for them."""
        self._held.clear()
        self._peaks.clear()
        self._expected = 0

    @property
    def used(self) -> int:
        """Bytes of the governed metric, as of the last reading."""
        beside = self._beside() if self.machine.metric != "vram" else 0
        return self.machine.used(self._readings()) + beside

    @property
    def limit(self) -> int:
        """Bytes."""
        return self._settings.memory_limit.within(self.total.size)

    @property
    def reserve(self) -> int:
        """Bytes left to other programs."""
        return reserve(self.total.size, self.limit)

    @property
    def pause(self) -> float:
        """Seconds until the engines are to be read again."""
        return max(ENGINES_EVERY, self.reading_took / SHARE)

    def expect(self, cost: int) -> None:
        """One more instance is known to take so many bytes."""
        self._expected = max(self._expected, cost)

    def cost(self, running: int) -> int:
        """Bytes that one more than `running` instances is predicted to take: as much as the dearest of them."""
        steps = [self._peaks[n] - self._peaks.get(n - 1, 0) for n in self._peaks if 0 < n <= running]
        return max(self._expected, *self._held.values(), *([] if self._held else steps), 0)

    def peak(self, running: int) -> int:
        """Bytes that `running` instances used together at their busiest, or use now if that is more."""
        return max(self.used, self._peaks.get(running, 0))

    def held_by(self, upstream: Upstream) -> int:
        """Bytes that an engine held of its own at its busiest; 0: it was not read, or cannot be."""
        return self._held.get(upstream, 0)

    async def read_machine(self) -> None:
        """Look at the machine as a whole: quick. What cannot be read stays as it was."""
        try:
            await self._read_machine()
        except OSError as error:
            if not self._unreadable:
                logger.warning("memory cannot be read: %s", error)
            self._unreadable = True
        else:
            self._unreadable = False

    async def _read_machine(self) -> None:
        machine, readings, pids = self.machine, self._readings(), self._pids()
        self.available = await asyncio.to_thread(machine.available, readings)
        pressure = await asyncio.to_thread(machine.pressure, pids)
        now = time.monotonic()
        short = self.available < 2 * self.reserve
        self.stall = stall(self.pressure, pressure, now - self._pressure_at, short=short) if self._pressure_at else ""
        self.pressure, self._pressure_at = pressure, now

    async def read(self) -> None:
        """Read every engine, one after another, then the machine."""
        took = 0.0

        def timed(pid: int) -> Reading | None:
            nonlocal took
            began = time.thread_time()
            try:
                return self.machine.read(pid)
            except OSError:
                return None  # as it was
            finally:
                took += time.thread_time() - began

        for instance in self._instances():
            await instance.measure(timed)
        self.reading_took = took
        self._remember()
        await self.read_machine()

    async def govern_gpu_if_used(self) -> None:
        """Once the first engine has worked: govern the memory of GPUs if it uses any."""
        if self._settings.memory_metric != "auto":
            return
        try:
            found = await asyncio.to_thread(machines.gpu_if_used, self.machine, self._pids())
            total = found.total()
        except OSError:  # a GPU that cannot be read is not governed
            return
        if found is not self.machine:
            self.machine, self.total = found, total
            self.forget()
            await self.read()

    def _remember(self) -> None:
        members = self._instances()
        present = {instance.upstream: instance for instance in members if instance.upstream is not None}
        self._held = {upstream: held for upstream, held in self._held.items() if upstream in present}
        for upstream, instance in present.items():
            held = None if instance.memory is None else self.machine.part(instance.memory)
            if held is not None:
                self._held[upstream] = max(held, self._held.get(upstream, 0))
        ready = [instance for instance in members if instance.status.state is State.READY]
        if len(ready) == len(members):  # one that comes or goes holds something in between
            self._peaks[len(ready)] = max(self.used, self._peaks.get(len(ready), 0))

    def _readings(self) -> list[Reading]:
        return [reading for instance in self._instances() if (reading := instance.memory) is not None]

    def _pids(self) -> list[int]:
        return [pid for instance in self._instances() if (pid := instance.member().pid) is not None]


def stall(before: Pressure, after: Pressure, seconds: float, *, short: bool) -> str:
    """How the system stalled between two readings; "" if it did not.

    Major faults count only where memory is `short`: a model that is read for the first time faults, too.
    """
    swapped = (after.swapped_in - before.swapped_in) / max(seconds, 0.1)
    faults = (after.faults - before.faults) / max(seconds, 0.1)
    if after.stalled >= STALLED:
        return f"programs wait for memory {after.stalled * 100:.0f} % of the time"
    if swapped >= SWAPPING:
        return f"{size(int(swapped))} are read back from swap every second"
    if short and faults >= FAULTING:
        return f"{faults:.0f} pages are read from disk again every second"
    return ""
