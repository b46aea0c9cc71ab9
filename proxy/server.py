"""The composition root: builds every part, runs them, stops them in order.

Order of a stop: refuse new work, fail what is queued, wait for requests in flight (at most --drain-timeout), close
client and engine connections, stop the engines. A second signal skips the wait. SIGHUP reads the configuration again,
unless the terminal of the proxy's session has hung up: then it is a stop.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from aiohttp import web

from slotproxy.instances.errors import ConfigurationError, InstanceError
from slotproxy.instances.models import demo
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.slots.routing import POLICIES
from slotproxy.instances.supervisor import Supervisor
from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.accounts.logs import catch_up, set_up
from slotproxy.proxy.accounts.metrics import Metrics, release
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.clients.front import Front
from slotproxy.proxy.clients.listening import (
    Listening,
    announce,
    is_loopback,
    leads_to,
    listen,
    room_for_clients,
    tls_of,
)
from slotproxy.proxy.exchange.deadlines import Limits
from slotproxy.proxy.exchange.forward import Forwarder
from slotproxy.proxy.exchange.gate import Gate
from slotproxy.proxy.operator.application import application
from slotproxy.proxy.operator.pages import only_upstreams
from slotproxy.proxy.operator.serving import Connect, served
from slotproxy.proxy.operator.stopping import Stopping
from slotproxy.proxy.options import reload
from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.terminal_session import TerminalSession

logger = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks at deadlines and at the lag of the loop; shorter where a timeout is short
SWITCH = 0.0005  # seconds a thread that reads memory may hold up the event loop; by default 5 ms
LOOK_AGAIN = 1.0  # seconds after a SIGHUP: a terminal or a shell may send it before it is gone itself
CLOSING = 0.5  # seconds handlers get to end when the drain is over


Reread = Callable[[], Settings]


class Server:
    """One proxy, on sockets that listen."""

    def __init__(
        self,
        settings: Settings,
        listening: Listening,
        supervisor: Supervisor,
        leases: Leases,
        metrics: Metrics,
        reread: Reread,
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._loopback = is_loopback(listening)
        self._supervisor = supervisor
        self._leases = leases
        self._metrics = metrics
        self._reread = reread
        self._gate = Gate(self._access(settings), settings.max_body, lambda: only_upstreams(supervisor.snapshot()))
        self._stopping = Stopping()
        self._signals = 0
        self._error: InstanceError | None = None
        self._signalled = asyncio.Event()
        self._hurry = asyncio.Event()
        self._terminal = TerminalSession()
        self._reload_asked = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal. Raises StartupError, ConfigurationError when it cannot."""
        tls = tls_of(self._settings)
        with self._handled_signals():
            await self._check_upstreams(self._settings)
            await self._supervisor.prepare()
            async with served(self._pages()) as pages:
                forwarder = self._forwarding(pages)
                front = Front(forwarder, most=room_for_clients())
                for one in self._listening.sockets:
                    await front.listen(one, tls)
                _spare_the_collector()
                sys.setswitchinterval(SWITCH)
                announce(self._settings.host, self._listening, secure=tls is not None)
                await self._serve(front, forwarder)
        if self._error is not None:
            raise self._error

    async def _serve(self, front: Front, forwarder: Forwarder) -> None:
        async with asyncio.TaskGroup() as tasks:
            supply = tasks.create_task(self._supply())
            ticker = tasks.create_task(self._tick(forwarder))
            reloading = tasks.create_task(self._reload(front, forwarder))
            told = tasks.create_task(self._signalled.wait())
            await asyncio.wait((supply, told), return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            reloading.cancel()
            try:
                await self._stop(front, forwarder)
            finally:
                ticker.cancel()

    async def _check_upstreams(self, settings: Settings) -> None:
        """Raises ConfigurationError if one of them is this proxy itself."""
        for spec in settings.upstream:
            if await asyncio.to_thread(leads_to, spec.url, self._listening):
                raise ConfigurationError(f"--upstream {spec.url} is this proxy itself: name the server behind it")

    def _access(self, settings: Settings) -> Access:
        """Reads the file of keys. Raises ConfigurationError."""
        keys = settings.labelled_keys()
        return Access(
            keys=tuple(one.key for one in keys),
            labels=tuple(one.label for one in keys),
            cors_origins=settings.cors_origin,
            loopback=self._loopback,
            name=settings.host,
        )

    def _pages(self) -> web.Application:
        supervisor, leases = self._supervisor, self._leases
        return application(
            snapshot=supervisor.snapshot,
            queued=lambda: leases.queued,
            page=self._metrics.page,
            operations=supervisor.operator,
            version=release(),
            stopping=self._stopping,
        )

    def _forwarding(self, pages: Connect) -> Forwarder:
        limits, strip = _limits(self._settings), bool(self._gate.access.keys)
        return Forwarder(self._gate, self._leases, limits, self._metrics, pages, strip_credentials=strip)

    async def _supply(self) -> None:
        """The supply side's life. Its end ends the proxy, in order; why it ended is told afterwards."""
        try:
            await self._supervisor.run()
        except InstanceError as error:
            self._error = error

    async def _stop(self, front: Front, forwarder: Forwarder) -> None:
        self._gate.stop()  # who comes now is told so, until nobody is left who was here before
        self._stopping.begin()
        busy = forwarder.in_flight - self._leases.queued
        if busy:
            wait = self._settings.drain_timeout
            logger.info("waiting for %d requests in flight, at most %g s; press Ctrl-C again to end them", busy, wait)
        await self._drain()
        front.stop()
        forwarder.break_off()
        await front.closed(CLOSING)
        await forwarder.closed()
        await self._supervisor.stop()
        logger.info("stopped")

    async def _drain(self) -> None:
        """Until no request is in flight, the drain's time is over, or a second signal."""
        async with asyncio.TaskGroup() as tasks:
            drained = tasks.create_task(self._supervisor.drain())
            hurried = tasks.create_task(self._hurry.wait())
            await asyncio.wait((drained, hurried), return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
            hurried.cancel()

    async def _reload(self, front: Front, forwarder: Forwarder) -> None:
        """Each SIGHUP that does not stop the proxy reads the configuration again.

        What is wrong with it is said, and the old one stays.
        """
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            logger.info("SIGHUP: reading the configuration again")
            try:
                settings = await asyncio.to_thread(self._reread)
                model = await asyncio.to_thread(model_of, settings)
                await self._apply(settings, model, front, forwarder)
            except (InstanceError, OSError) as error:
                logger.error("the configuration stays as it was: %s", error)

    async def _apply(self, settings: Settings, model: Path | None, front: Front, forwarder: Forwarder) -> None:
        """From now on by `settings`. Raises ConfigurationError; then nothing has changed."""
        before, wanted = self._settings, settings
        settings = reload.possible(before, wanted)
        access, limits, tls = self._access(settings), _limits(settings), tls_of(settings)
        await self._check_upstreams(settings)
        await self._supervisor.reconfigure(settings.supply(model))
        self._settings = settings
        set_up(settings.log_format, settings.log_level)
        if tls is not None:
            front.use(tls)
        forwarder.reconfigure(limits, strip_credentials=bool(access.keys))
        self._gate.reconfigure(access, settings.max_body)
        _queue_by(self._leases, settings)
        logger.info("%s", reload.summary(before, wanted))

    async def _tick(self, forwarder: Forwarder) -> None:
        due = monotonic()
        while True:
            settings = self._settings
            period = min(TICK, settings.stall_timeout / 4, settings.prefill_timeout / 4, settings.sse_ping or TICK)
            due += period
            await asyncio.sleep(max(0.0, due - monotonic()))
            now = monotonic()
            late = max(0.0, now - due)
            self._metrics.loop_lag(late)
            if late > period:  # suspended, or starved: what came meanwhile has not been read yet
                forwarder.forgive(late)
            due = max(due, now - period)
            forwarder.sweep(now)
            catch_up()

    @contextmanager
    def _handled_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals == 1:
            logger.info("%s: stopping", signal.Signals(number).name)
            self._signalled.set()
        else:
            logger.info("%s again: not waiting for requests in flight", signal.Signals(number).name)
            self._hurry.set()

    def _on_hang_up(self) -> None:
        if not self._stops_with_terminal():
            self._reload_asked.set()
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._stops_with_terminal)

    def _stops_with_terminal(self) -> bool:
        if not self._terminal.is_over:
            return False
        if not self._signals:  # several SIGHUPs are one: they come from the terminal, the shell and the system
            logger.info("the terminal has hung up")
            self._on_signal(signal.SIGHUP)
        return True


def model_of(settings: Settings) -> Path | None:
    """The path of the model to serve, the demo's fetched first if need be; None: no local instances.

    Not for the event loop: it may take as long as a download. Raises ModelError.
    """
    if not settings.local:
        return None
    return demo.fetch() if settings.model == "demo" else settings.model_path


async def serve(settings: Settings, model: Path | None, reread: Reread) -> int:
    """Run one proxy on `model` to its end; the exit code. `reread`: what the settings would be if it started now."""
    pool: Pool[Upstream] = Pool(settings.queue_limit, POLICIES[settings.routing])
    leases = Leases(pool)
    _queue_by(leases, settings)
    metrics = Metrics(lambda: supervisor.snapshot(), lambda: leases.queued)
    supervisor = Supervisor(settings.supply(model), leases, on_transition=metrics.moved)
    with listen(settings.host, settings.port) as listening:
        await Server(settings, listening, supervisor, leases, metrics, reread).run()
    return 0


def _queue_by(leases: Leases, settings: Settings) -> None:
    """Raises ConfigurationError."""
    policy, per_client = POLICIES[settings.routing], settings.queue_per_client
    leases.reconfigure(settings.queue_limit, policy, per_client, settings.weights())


def _limits(settings: Settings) -> Limits:
    return Limits(
        queue=settings.queue_limit,
        queue_timeout=settings.queue_timeout,
        prefill_timeout=settings.prefill_timeout,
        stall_timeout=settings.stall_timeout,
        sse_ping=settings.sse_ping,
    )


def _spare_the_collector() -> None:
    """What was made at start lives as long as the process, and a request leaves no cycles: look for garbage seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
