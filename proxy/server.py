"""The composition root: builds every part, runs them, stops them in order.

Order of a stop: refuse new work, fail what is queued, wait for requests in flight (at most --drain-timeout), close
client and engine connections, stop the engines. A second signal skips the wait.
"""

import asyncio
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from slotproxy.instances import demo
from slotproxy.instances.errors import ConfigurationError, InstanceError, StartupError
from slotproxy.instances.leases import Leases
from slotproxy.instances.pool import Pool
from slotproxy.instances.routing import POLICIES
from slotproxy.instances.supervisor import Supervisor
from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.access import Access
from slotproxy.proxy.api import Api
from slotproxy.proxy.config import Settings
from slotproxy.proxy.forward import Forwarder, Limits
from slotproxy.proxy.front import Front
from slotproxy.proxy.metrics import Metrics, release
from slotproxy.proxy.routes import Routes

logger = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks at deadlines and at the lag of the loop; shorter where a timeout is short
BACKLOG = 1024
CLOSING = 0.5  # seconds handlers get to end when the drain is over


class Server:
    """One proxy."""

    def __init__(self, settings: Settings, supervisor: Supervisor, leases: Leases, metrics: Metrics) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._leases = leases
        self._metrics = metrics
        limits = Limits(
            queue=settings.queue_limit,
            queue_timeout=settings.queue_timeout,
            prefill_timeout=settings.prefill_timeout,
            stall_timeout=settings.stall_timeout,
        )
        keys = settings.keys()
        self._forwarder = Forwarder(leases, limits, self._metrics, strip_credentials=bool(keys))
        access = Access(
            keys=keys,
            cors_origins=settings.cors_origin,
            loopback=_is_loopback(settings.host),
            name=settings.host,
        )
        self._routes = Routes(
            self._forwarder,
            self._metrics,
            access,
            supervisor.snapshot,
            lambda: leases.queued,
            Api(supervisor, supervisor.snapshot, lambda: leases.queued, release()),
            settings.max_body,
        )
        self._signals = 0
        self._error: InstanceError | None = None
        self._signalled = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal. Raises StartupError, ConfigurationError when it cannot."""
        tls = _tls(self._settings)
        listening = _listen(self._settings.host, self._settings.port)
        with listening, self._handled_signals():
            await self._supervisor.prepare()
            front = Front(self._routes.handle)
            server = await asyncio.get_running_loop().create_server(front, sock=listening, ssl=tls, backlog=BACKLOG)
            _spare_the_collector()
            _announce(self._settings.host, listening, secure=tls is not None)
            async with asyncio.TaskGroup() as tasks:
                supply = tasks.create_task(self._supply())
                ticker = tasks.create_task(self._tick())
                told = tasks.create_task(self._signalled.wait())
                await asyncio.wait((supply, told), return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
                try:
                    await self._stop(server, front)
                finally:
                    ticker.cancel()
        if self._error is not None:
            raise self._error

    async def _supply(self) -> None:
        """The supply side's life. Its end ends the proxy, in order; why it ended is told afterwards."""
        try:
            await self._supervisor.run()
        except InstanceError as error:
            self._error = error

    async def _stop(self, server: asyncio.Server, front: Front) -> None:
        self._routes.drain()  # who comes now is told so, until nobody is left who was here before
        busy = sum(self._leases.leased(upstream) for upstream in self._leases.upstreams)
        if busy:
            wait = self._settings.drain_timeout
            logger.info("waiting for %d requests in flight, at most %g s; press Ctrl-C again to end them", busy, wait)
        await self._drain()
        server.close()
        self._forwarder.break_off()
        front.pre_shutdown()
        await front.shutdown(CLOSING)
        self._forwarder.idle.close()
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

    async def _tick(self) -> None:
        settings = self._settings
        period = min(TICK, settings.stall_timeout / 4, settings.prefill_timeout / 4)
        due = monotonic()
        while True:
            due += period
            await asyncio.sleep(max(0.0, due - monotonic()))
            now = monotonic()
            self._metrics.loop_lag(max(0.0, now - due))
            due = max(due, now - period)
            self._forwarder.sweep(now)

    @contextmanager
    def _handled_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals == 1:
            logger.info("%s: stopping", signal.Signals(number).name)
            self._signalled.set()
        else:
            logger.info("%s again: not waiting for requests in flight", signal.Signals(number).name)
            self._hurry.set()


def model_of(settings: Settings) -> Path | None:
    """The path of the model to serve, the demo's fetched first if need be; None: no local instances.

    Not for the event loop: it may take as long as a download. Raises ModelError.
    """
    if not settings.local:
        return None
    return demo.fetch() if settings.model == "demo" else settings.model_path


async def serve(settings: Settings, model: Path | None) -> int:
    """Run one proxy on `model` to its end; the exit code."""
    pool: Pool[Upstream] = Pool(settings.queue_limit, POLICIES[settings.routing])
    leases = Leases(pool)
    metrics = Metrics(lambda: supervisor.snapshot(), lambda: leases.queued)
    supervisor = Supervisor(settings.supply(model), leases, on_transition=metrics.moved)
    await Server(settings, supervisor, leases, metrics).run()
    return 0


def _spare_the_collector() -> None:
    """What was made at start lives as long as the process, and a request leaves no cycles: look for garbage seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises StartupError, ConfigurationError with a sentence."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
    except OSError:
        raise ConfigurationError(f"--host {host} is no address or name of this machine") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    listening.setblocking(False)
    return listening


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"--tls-cert {settings.tls_cert} and --tls-key do not load: {error}") from None
    return context


def _announce(host: str, listening: socket.socket, *, secure: bool) -> None:
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    url = f"http{'s' if secure else ''}://{shown}:{port}"
    logger.info("listening on %s (OpenAI base URL: %s/v1)", url, url)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"
