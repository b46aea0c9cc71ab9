"""A server that runs elsewhere (`--upstream`): never started or stopped, polled, offered while it is healthy."""

import asyncio
from collections.abc import Mapping
from typing import Any

from slotproxy.instances.endpoint import MODELS
from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.leases import Leases
from slotproxy.instances.lifecycle import Event, State
from slotproxy.instances.probe import Probe, resolve
from slotproxy.instances.snapshot import Kind, Member, OnTransition
from slotproxy.instances.standing import Standing
from slotproxy.instances.upstream import Upstream

HEALTHY_POLL = 5.0  # seconds between glances at one that serves
FIRST_POLL, LONGEST_POLL = 2.0, 30.0  # seconds between looks at one that does not, doubling
IMPATIENCE = 0.5  # seconds between looks at one that does not serve while requests wait
HEALTH = "/health"
SILENT = "it does not answer"


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
        )

    def stop(self) -> None:
        self._stopped.set()
        self._doubted.set()

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
        answer = await self._probe.ask(self.upstream, HEALTH)
        if answer is not None and answer.status >= 500:
            return f"{HEALTH} answers {answer.status}"
        listing = await self._probe.ask(self.upstream, MODELS)
        if listing is not None and listing.status in {401, 403}:
            return f"it refuses the API key ({listing.status})"
        if listing is not None and listing.status < 300:
            self._learn(listing.document())
            return None
        if answer is not None and answer.status < 300:
            return None
        if answer is None and listing is None:
            return SILENT
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
            self._leases.add(self.upstream)

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
