"""Keeps the instances of one supervisor within the memory limit: lets them grow, watches them, remembers the result."""

import asyncio
import logging
import time
from collections.abc import Callable

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.scaling import calibration
from slotproxy.instances.scaling.calibration import Calibration
from slotproxy.instances.scaling.growth import Growth, Outcome
from slotproxy.instances.scaling.memory_monitor import MACHINE_EVERY, MemoryMonitor
from slotproxy.instances.scaling.scaled_fleet import ScaledFleet
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.wording import instances, size

logger = logging.getLogger(__name__)

QUIET = 5.0  # seconds without a request until a comparison that clients prevented is tried again
PAUSE, LONGEST_PAUSE = 5.0, 640.0  # seconds until the next try, doubling


class Governor:
    """Wires growth to the fleet and the monitor, and decides when each is asked."""

    def __init__(
        self,
        settings: SupplySettings,
        fleet: Fleet,
        leases: Leases,
        probe: Probe,
        beside: Callable[[], int] = lambda: 0,
    ) -> None:
        """`beside`: bytes of memory that are used for the instances outside of them."""
        self.growth = Growth(settings)
        self.monitor = MemoryMonitor(settings, lambda: fleet.instances, beside)
        self._settings = settings
        self._fleet = fleet
        self._leases = leases
        self._probe = probe
        self._launch: Launch | None = None
        self._scaled: ScaledFleet | None = None
        self._settled: Decision | None = None  # why there are no more, once that is known
        self._warned = False
        self._sharing_checked = False
        self._granted = 0  # leases when a request was seen last
        self._busy_at = self._next_try_at = 0.0
        self._pause = PAUSE

    def govern(self, launch: Launch | None, tasks: asyncio.TaskGroup, failed: Callable[[Instance], None]) -> None:
        """Instances started by `launch`, with tasks in `tasks`; `failed` is told of those that did not come up."""
        self._launch = launch
        self._scaled = ScaledFleet(
            self._fleet, self._leases, self._probe, self.monitor, lambda: self._launch, failed, tasks
        )

    def reconfigure(self, settings: SupplySettings, launch: Launch | None) -> None:
        """From now on by these settings, and for instances started by `launch`."""
        self._settings = settings
        self._settled = None
        self._warned = False
        if launch != self._launch:
            self._launch = launch
            self._sharing_checked = False
            self.monitor.forget()
        self.growth.reconfigure(settings)
        self.monitor.reconfigure(settings)

    def log_limit(self) -> None:
        """Say what the instances may use."""
        monitor = self.monitor
        logger.info("memory limit %s of %s (%s)", size(monitor.limit), size(monitor.total.size), monitor.total.source)

    def room(self) -> Decision:
        """Whether one more instance would fit, however many `--max-instances` allows: an operator asked for it."""
        assert self._scaled is not None
        level = self._scaled.level()
        return self.growth.room(level, level.running + 1)

    async def climb(self) -> None:
        """As many instances as are right. The caller holds the fleet's `changing`."""
        assert self._scaled is not None
        key, known = await self._known()
        self._settled = await self.growth.climb(self._scaled, known)
        self._busy_at = time.monotonic()
        if known is None:
            await self._keep(key)

    async def watch(self) -> None:
        """Read memory and act on it, until cancelled."""
        read_at = 0.0
        while True:
            if self._launch is not None:  # else there are only servers that run elsewhere
                now = time.monotonic()
                if now - read_at >= self.monitor.pause:
                    await self.monitor.read()
                    read_at = now
                else:
                    await self.monitor.read_machine()
                if self._scaled is not None:
                    await self._act(self._scaled, now)
            await asyncio.sleep(MACHINE_EVERY)

    async def _act(self, scaled: ScaledFleet, now: float) -> None:
        if not self._sharing_checked:
            self._sharing_checked = await scaled.check_sharing()
        if self._fleet.changing.locked():
            return
        if self._settings.instances is not None:
            self._warn(scaled)
            return
        async with self._fleet.changing:
            decision = await self.growth.watch(scaled, now)
            if decision is None and self._settled is not None and not self.growth.all_compared and self._quiet(now):
                await self._compare_late(scaled)

    def _quiet(self, now: float) -> bool:
        """Whether no request has come for a while, and the last comparison that one ended is long enough ago."""
        if self._leases.granted != self._granted or self._leases.queued:
            self._granted, self._busy_at = self._leases.granted, now
        return now - self._busy_at >= QUIET and now >= self._next_try_at

    async def _compare_late(self, scaled: ScaledFleet) -> None:
        """The comparison that clients prevented. Each one that they end makes the next one later."""
        comparison = await self.growth.compare_newest(scaled, wait=False)
        if comparison.outcome is Outcome.REMOVED:
            self._settled = comparison.decision
        self._granted = self._leases.granted  # our own
        if not self.growth.all_compared:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            self._next_try_at = time.monotonic() + self._pause
            return
        key, _ = await self._known()
        await self._keep(key)

    def _warn(self, scaled: ScaledFleet) -> None:
        """Once: as many instances as the user asked for use too much."""
        level = scaled.level()
        if level.shortage and not self._warned:
            self._warned = True
            logger.warning(
                "keeping %s, as asked, although memory is short: %s", instances(level.running), level.shortage
            )

    async def _known(self) -> tuple[str, Calibration | None]:
        """The fingerprint of what runs, and what an earlier start found out about it."""
        launch, settings, total = self._launch, self._settings, self.monitor.total
        if launch is None:
            return "", None
        key = await asyncio.to_thread(calibration.fingerprint, launch, settings, total)
        known = None if settings.recalibrate else await asyncio.to_thread(calibration.load, settings.state_dir, key)
        if known is not None and known.metric == self.monitor.machine.metric:
            self.monitor.expect(known.cost)
        return key, known

    async def _keep(self, key: str) -> None:
        """Remember what was found out, if it was all found out."""
        settled, monitor, running = self._settled, self.monitor, len(self._fleet.staying)
        if (
            settled is None
            or settled.move is Move.ADD
            or not self.growth.all_compared
            or self._fleet.ceiling is not None
        ):
            return
        rates = self.growth.rates
        result = Calibration(
            instances=running,
            reason=settled.reason,
            sentence=settled.sentence,
            metric=monitor.machine.metric,
            cost=monitor.cost(running),
            used=monitor.peak(running),
            limit=monitor.limit,
            rates=tuple(rates.get(count, 0.0) for count in range(1, max(rates, default=0) + 1)),
            at=time.time(),
        )
        await asyncio.to_thread(calibration.keep, self._settings.state_dir, key, result)
