"""A server that runs elsewhere (`--upstream`): never started or stopped, polled, offered while it is healthy, and asked
no more than its rate limits allow.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import Event, State
from slotproxy.instances.remotes import health
from slotproxy.instances.remotes.endpoint import upstream_of
from slotproxy.instances.remotes.health import Condition, Health
from slotproxy.instances.remotes.pace import Pace
from slotproxy.instances.remotes.ratelimits import Reason, allowances, exhausted, mentioned, refusal, scarce
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.running.status import Status
from slotproxy.instances.settings import UpstreamSpec
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.snapshot import Allowance, Errors, Kind, Member, OnTransition, Traffic
from slotproxy.instances.upstream import REFUSALS, Field, Upstream

HEALTHY_POLL = 5.0  # seconds between glances at one that serves
FIRST_POLL, LONGEST_POLL = 2.0, 30.0  # seconds between looks at one that does not, doubling
IMPATIENCE = 0.5  # seconds between looks at one that does not serve while requests wait
LONG_PAUSE = 5.0  # seconds
KINDS = {Reason.RATE_LIMIT: "refused", Reason.QUOTA: "refused", Reason.OVERLOAD: "unavailable"}  # fields of Errors
SENTENCES = {
    Reason.RATE_LIMIT: "its rate limit is reached",
    Reason.OVERLOAD: "it is overloaded",
    Reason.QUOTA: "its quota or spend limit is used up",
}

logger = logging.getLogger(__name__)


class Remote:
    """One upstream. Its task is `run`."""

    def __init__(self, upstream: Upstream, leases: Leases, probe: Probe, on_transition: OnTransition) -> None:
        self.id = upstream.instance
        self.upstream = upstream
        self.status = Status(Kind.UPSTREAM, upstream.instance, on_transition)
        self.models: tuple[Mapping[str, Any], ...] = ()
        self._leases = leases
        self._probe = probe
        self._n_ctx: int | None = None
        self._pace = Pace(upstream.slots)
        self._limits: Mapping[str, Allowance] = {}
        self._requests = 0
        self._errors: Counter[str] = Counter()
        self._offered = upstream.slots
        self._pause_unsaid = True  # none was logged since it had all its slots
        self._resumption: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()
        self._check_due = asyncio.Event()

    def member(self) -> Member:
        upstream = self.upstream
        return Member(
            id=self.id,
            kind=Kind.UPSTREAM,
            state=self.status.state,
            pid=None,
            host=upstream.host,
            port=upstream.port,
            n_ctx=self._n_ctx,
            slots=upstream.slots,
            leased=self._leases.leased(upstream),
            memory=None,
            restarts=self.status.restarts,
            reason=self.status.reason,
            since=self.status.since,
            offered=self._leases.offered(upstream),
            traffic=self._traffic(),
        )

    @property
    def pause(self) -> float:
        """Seconds until it is asked again; 0: now."""
        return max(0.0, self._pace.until - time.monotonic())

    @property
    def why_held_back(self) -> str:
        """A clause about it."""
        return SENTENCES[self._pace.reason or Reason.RATE_LIMIT]

    def _traffic(self) -> Traffic:
        reason = self._pace.reason
        return Traffic(
            requests=self._requests,
            errors=Errors.of(self._errors),
            pause=self.pause,
            held_back=None if reason is None else reason.value,
            limits=self._limits,
        )

    def stop(self) -> None:
        self._stopped.set()
        self._check_due.set()
        if self._resumption is not None:
            self._resumption.cancel()

    def answered(self, status: int | None, fields: tuple[Field, ...], body: bytes) -> None:
        """A request was answered: see UpstreamOwner."""
        if status is not None:
            self._requests += 1
            if (
                self._pace.steady
                and not (self._limits or self._resumption)
                and (
                    (status < 400 and not fields) or (status < 500 and status not in REFUSALS and not mentioned(fields))
                )
            ):
                return  # as nearly always: what follows would change nothing
        now, wall = time.monotonic(), time.time()
        told = refusal(status, fields, body, wall)
        limits = allowances(fields, wall)
        self._limits = limits or self._limits
        if told is not None:
            self._errors[KINDS[told.reason]] += 1
            self._pace.refused(told, now, random.random())
        elif status is not None:
            if status >= 500:
                self._errors["other"] += 1
            self._pace.answered(now, scarce=scarce(limits))
            if wait := exhausted(limits):
                self._pace.exhausted(wait, now, random.random())
        self._keep_pace()

    def failed(self, reason: str) -> None:
        """A request failed on it: see UpstreamOwner."""
        if reason == "hang":
            self._errors["timeout"] += 1
        elif reason != "unavailable":  # that one was an answer, and is counted
            self._errors["other"] += 1
        self.check_again()

    def check_again(self) -> None:
        """Offer it again only after another look, which is taken at once."""
        self._leases.withdraw(self.upstream)
        self._check_due.set()

    async def run(self) -> None:
        """Poll until `stop`."""
        self.status.step(Event.START)
        pause = FIRST_POLL
        while not self._stopped.is_set():
            due = self._check_due.is_set()
            self._check_due.clear()
            serves = self.status.state is State.READY
            found = await self._look(closely=due or not serves)
            if found.condition is Condition.SILENT and serves and not due and self._leases.leased(self.upstream):
                found = health.HEALTHY  # a serial engine may answer nothing while it works; requests have deadlines
            if self._stopped.is_set():
                break
            if found.condition is Condition.HEALTHY:
                self._offer()
                await self._rest(HEALTHY_POLL)
                pause = FIRST_POLL
            else:
                self._take_back(found.trouble)
                await self._rest(pause)
                pause = min(pause * 2, LONGEST_POLL)
        self._leases.withdraw(self.upstream)

    async def _look(self, *, closely: bool) -> Health:
        found = await (health.examine if closely else health.glance)(self._probe, self.upstream)
        if found.models is not None:
            self.models, self._n_ctx = found.models, found.n_ctx
        return found

    def _offer(self) -> None:
        if self.status.state is State.BACKOFF:
            self.status.step(Event.START)
        if self.status.state is State.STARTING:
            where = f"{self.upstream.authority}{self.upstream.base_path}, {self.upstream.slots} slots"
            self.status.step(Event.HEALTHY, where)
        if self.upstream not in self._leases.upstreams:
            self._leases.add(self.upstream, self._offered)

    def _keep_pace(self) -> None:
        """Offer what it may have now, and what it may have after a pause when that is over."""
        now = time.monotonic()
        slots, before, pause = self._pace.slots(now), self._offered, self._pace.until - now
        self._offered = slots
        self._leases.resize(self.upstream, slots)
        if self._resumption is not None:
            self._resumption.cancel()
            self._resumption = None
        if pause > 0 and not self._stopped.is_set():
            self._resumption = asyncio.get_running_loop().call_later(pause, self._keep_pace)
        if slots != before or (not self._pause_unsaid and self._pace.reason is None):
            self._log_pace(slots, pause)

    def _log_pace(self, slots: int, pause: float) -> None:
        """At debug level what happens every second under load: only the first of several short pauses is a warning."""
        if self._pace.reason is None:
            self._pause_unsaid = True
            logger.info("upstream %s: all %d slots again", self.id, slots)
        elif slots:
            logger.debug("upstream %s: %d of %d slots", self.id, slots, self.upstream.slots)
        else:
            level = logging.WARNING if self._pause_unsaid or pause >= LONG_PAUSE else logging.DEBUG
            self._pause_unsaid = False
            logger.log(level, "upstream %s: %s, it is asked again in %.1f s", self.id, self.why_held_back, pause)

    def _take_back(self, trouble: str) -> None:
        self._leases.withdraw(self.upstream)
        self.status.failure = Failure(cause=Cause.UNREACHABLE, sentence=f"{self.upstream.authority}: {trouble}")
        if self.status.state is not State.BACKOFF:
            self.status.step(Event.EXITED, trouble)

    async def _rest(self, seconds: float) -> None:
        """Until a check is due, or `seconds` have passed, or somebody waits for a slot that it may have."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, IMPATIENCE)):
                    await self._check_due.wait()
                return
            except TimeoutError:
                if self._leases.queued and self.status.state is not State.READY:
                    return


Planned = Mapping[UpstreamSpec, Remote]


class Remotes:
    """The upstreams of one proxy, by what the user said of them: a configuration that is read again changes only some.

    Iterates over those that are here.
    """

    def __init__(self, leases: Leases, probe: Probe, on_transition: OnTransition) -> None:
        self._leases = leases
        self._probe = probe
        self._on_transition = on_transition
        self._here: dict[UpstreamSpec, Remote] = {}

    def __iter__(self) -> Iterator[Remote]:
        return iter(tuple(self._here.values()))

    def __bool__(self) -> bool:
        return bool(self._here)

    def plan(self, specs: Sequence[UpstreamSpec], environ: Mapping[str, str]) -> Planned:
        """Those that `specs` name: the ones that are here already, and new ones. Raises ConfigurationError."""
        used = {remote.id for remote in self}
        free = (name for number in range(len(used) + len(specs)) if (name := f"u{number}") not in used)
        return {
            spec: self._here.get(spec)
            or Remote(upstream_of(next(free), spec, environ), self._leases, self._probe, self._on_transition)
            for spec in specs
        }

    def adopt(self, plan: Planned, tasks: asyncio.TaskGroup) -> None:
        """From now on those of `plan`: new ones are polled in `tasks`, what is not among them gets no more requests."""
        for spec in self._here.keys() - plan.keys():
            self._here.pop(spec).stop()
        for spec, remote in plan.items():
            if spec not in self._here:
                self._here[spec] = remote
                tasks.create_task(remote.run())
