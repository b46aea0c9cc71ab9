"""A server that runs elsewhere (`--upstream`): never started or stopped, polled, offered while it is healthy, and asked
no more than its rate limits allow.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import Event, State
from slotproxy.instances.remotes.endpoint import MODELS, WITHOUT_HEALTH
from slotproxy.instances.remotes.pace import Pace
from slotproxy.instances.remotes.ratelimits import Reason, allowances, mentioned, refusal, scarce, starved
from slotproxy.instances.running.probe import Probe, resolve
from slotproxy.instances.running.state import Standing
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.snapshot import Allowance, Errors, Kind, Member, OnTransition, Traffic
from slotproxy.instances.upstream import REFUSALS, Field, Upstream

HEALTHY_POLL = 5.0  # seconds between glances at one that serves
FIRST_POLL, LONGEST_POLL = 2.0, 30.0  # seconds between looks at one that does not, doubling
IMPATIENCE = 0.5  # seconds between looks at one that does not serve while requests wait
HEALTH = "/health"
LONG_PAUSE = 5.0  # seconds
KINDS = {Reason.RATE_LIMIT: "refused", Reason.QUOTA: "refused", Reason.OVERLOAD: "unavailable"}  # fields of Errors
SENTENCES = {
    Reason.RATE_LIMIT: "its rate limit is reached",
    Reason.OVERLOAD: "it is overloaded",
    Reason.QUOTA: "its quota or spend limit is used up",
}
SILENT = "it does not answer"

logger = logging.getLogger(__name__)


class Remote:
    """One upstream. Its task is `run`."""

    def __init__(self, upstream: Upstream, leases: Leases, probe: Probe, on_transition: OnTransition) -> None:
        self.id = upstream.instance
        self.upstream = upstream
        self.standing = Standing(Kind.UPSTREAM, upstream.instance, on_transition)
        self.models: tuple[Mapping[str, Any], ...] = ()
        self._leases = leases
        self._probe = probe
        self._n_ctx: int | None = None
        self._pace = Pace(upstream.slots)
        self._limits: Mapping[str, Allowance] = {}
        self._requests = 0
        self._errors: Counter[str] = Counter()
        self._offered = upstream.slots
        self._calm = True  # nothing was said of a pause since it had all its slots
        self._resumption: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()
        self._doubted = asyncio.Event()

    def member(self) -> Member:
        upstream = self.upstream
        return Member(
            id=self.id,
            kind=Kind.UPSTREAM,
            state=self.standing.state,
            pid=None,
            host=upstream.host,
            port=upstream.port,
            n_ctx=self._n_ctx,
            slots=upstream.slots,
            leased=self._leases.leased(upstream),
            memory=None,
            restarts=self.standing.restarts,
            reason=self.standing.reason,
            since=self.standing.since,
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
        self._doubted.set()
        if self._resumption is not None:
            self._resumption.cancel()

    def answered(self, status: int | None, fields: tuple[Field, ...], body: bytes) -> None:
        """A request was answered: see UpstreamOwner."""
        if status is not None:
            self._requests += 1
            if status < 500 and status not in REFUSALS and self._is_unlimited and not mentioned(fields):
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
            if wait := starved(limits):
                self._pace.starved(wait, now, random.random())
        self._keep_pace()

    @property
    def _is_unlimited(self) -> bool:
        return self._pace.steady and not self._limits and self._resumption is None

    def failed(self, reason: str) -> None:
        """A request found it wanting: see UpstreamOwner."""
        if reason == "hang":
            self._errors["timeout"] += 1
        elif reason != "unavailable":  # that one was an answer, and is counted
            self._errors["other"] += 1
        self.doubt()

    def doubt(self) -> None:
        """A request found it wanting: no leases until it was looked at again, which is now."""
        self._leases.withdraw(self.upstream)
        self._doubted.set()

    async def run(self) -> None:
        """Poll until `stop`."""
        self.standing.step(Event.START)
        pause = FIRST_POLL
        while not self._stopped.is_set():
            doubted = self._doubted.is_set()
            self._doubted.clear()
            trouble = await (self._glance() if self.standing.state is State.READY and not doubted else self._look())
            if trouble == SILENT and not doubted and self._leases.leased(self.upstream):
                trouble = None  # a serial engine may answer nothing while it works; requests have their own deadlines
            if self._stopped.is_set():
                break
            if trouble is None:
                self._serve()
            else:
                self._lose(trouble)
            await self._pause(HEALTHY_POLL if trouble is None else pause)
            pause = FIRST_POLL if trouble is None else min(pause * 2, LONGEST_POLL)
        self._leases.withdraw(self.upstream)

    async def _glance(self) -> str | None:
        """Enough for one that serves: requests report what they find, and an API elsewhere bills what it answers."""
        return None if await self._probe.listens(self.upstream) else SILENT

    async def _look(self) -> str | None:
        """None when it is healthy: /health says so, or where it has none /v1/models does."""
        known = self.upstream.host in WITHOUT_HEALTH
        answer = None if known else await self._probe.ask(self.upstream, HEALTH)
        if answer is not None and answer.status >= 500:
            return f"{HEALTH} answers {answer.status}"
        listing = await self._probe.ask(self.upstream, MODELS)
        if listing is not None and listing.status in {401, 403}:
            if not self.upstream.extra_headers:
                return f"it wants an API key ({listing.status}): name the variable that holds it, as in URL,key-env=VAR"
            return f"it refuses the API key ({listing.status})"
        if listing is not None and listing.status == 429:
            return None  # it lives, and its pace is not set by looks at it
        if listing is not None and listing.status < 300:
            self._learn(listing.document())
            return None
        if answer is not None and answer.status < 300:
            return None
        if answer is None and listing is None:
            distrust = await self._probe.distrust(self.upstream) if self.upstream.tls else None
            return SILENT if distrust is None else f"its certificate is not trusted ({distrust})"
        return f"neither {HEALTH} nor {MODELS} answers with success"

    def _learn(self, document: Any) -> None:
        listed = resolve(document, "/data")
        self.models = tuple(model for model in listed if isinstance(model, dict)) if isinstance(listed, list) else ()
        n_ctx = resolve(document, "/data/0/meta/n_ctx")
        self._n_ctx = n_ctx if isinstance(n_ctx, int) else None

    def _serve(self) -> None:
        if self.standing.state is State.BACKOFF:
            self.standing.step(Event.START)
        if self.standing.state is State.STARTING:
            where = f"{self.upstream.authority}{self.upstream.base_path}, {self.upstream.slots} slots"
            self.standing.step(Event.HEALTHY, where)
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
        if slots != before or (not self._calm and self._pace.reason is None):
            self._tell(slots, pause)

    def _tell(self, slots: int, pause: float) -> None:
        """Aloud when it begins, when it is over, and of every long pause: under load short ones come by the second."""
        if self._pace.reason is None:
            self._calm = True
            logger.info("upstream %s: all %d slots again", self.id, slots)
        elif slots:
            logger.debug("upstream %s: %d of %d slots", self.id, slots, self.upstream.slots)
        else:
            level = logging.WARNING if self._calm or pause >= LONG_PAUSE else logging.DEBUG
            self._calm = False
            logger.log(level, "upstream %s: %s, it is asked again in %.1f s", self.id, self.why_held_back, pause)

    def _lose(self, trouble: str) -> None:
        self._leases.withdraw(self.upstream)
        self.standing.failure = Failure(cause=Cause.UNREACHABLE, sentence=f"{self.upstream.authority}: {trouble}")
        if self.standing.state is not State.BACKOFF:
            self.standing.step(Event.EXITED, trouble)

    async def _pause(self, seconds: float) -> None:
        """Until somebody doubts it, or `seconds` have passed, or somebody waits for a slot that it may have."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, IMPATIENCE)):
                    await self._doubted.wait()
                return
            except TimeoutError:
                if self._leases.queued and self.standing.state is not State.READY:
                    return
