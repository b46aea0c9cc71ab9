"""Every client connection: how many there may be, how long each may take, how much of their bodies is held.

A connection counts from the moment its socket is accepted, in its TLS handshake and while it closes, too.
"""

import asyncio
import contextlib
import heapq
import logging
import math
import socket
import ssl
from time import monotonic

from slotproxy.proxy.clients import connection
from slotproxy.proxy.clients.connection import ClientConnection, Handler
from slotproxy.proxy.errors import crowded

logger = logging.getLogger(__name__)

MOST = 10_000  # connections at a time
AT_ONCE = 32  # idle connections closed when there is no room, and how many may be told that there is none
QUIET = 60.0  # seconds between two complaints about it
BODY_BUDGET = 512 * 1024 * 1024  # bytes of request bodies that are held at a time
PERIOD = 1.0  # seconds between looks at deadlines, at most
HANDSHAKE = 10.0  # seconds
BACKLOG = 1024
PAUSE = 1.0  # seconds until accepting is tried again when the system has no descriptor left
_CROWDED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
)


class Front:
    """Makes and keeps the client connections of one proxy."""

    def __init__(self, handler: Handler, *, most: int = MOST, body_budget: int = BODY_BUDGET) -> None:
        """`most`: connections at a time. Beyond, those that are idle longest are closed; if none is, whoever comes is
        turned away.
        """
        self.handler = handler
        self.body_budget = body_budget
        self.closing = False  # no connection is kept after its answer
        self._most = most
        self.bodies_held = 0  # bytes of request bodies that are held now; connections keep it
        self._clients: set[ClientConnection] = set()
        self._spare = min(AT_ONCE, max(4, most // 8))  # connections beyond those, that are told so
        self._handshakes: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._servers: list[asyncio.Server] = []
        self._listening: set[socket.socket] = set()  # those with TLS
        self._tls: ssl.SSLContext | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._due = 0.0  # when it is to run
        self._complained = -math.inf
        self._empty = asyncio.Event()  # set when the last connection is gone

    def __call__(self) -> ClientConnection:
        return ClientConnection(self)

    async def listen(self, listening: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept the clients of a socket that is bound; may be called for several. `tls`, the same for all, counts for
        every handshake, until `use`.
        """
        loop = asyncio.get_running_loop()
        if tls is None:
            self._servers.append(await loop.create_server(self, sock=listening, backlog=BACKLOG))
            return
        self._tls = tls
        self._listening.add(listening)
        loop.add_reader(listening, self._accept, listening)

    def use(self, tls: ssl.SSLContext) -> None:
        """From the next handshake on."""
        self._tls = tls

    # for connections

    def opened(self, client: ClientConnection) -> None:
        self._clients.add(client)
        self._empty.clear()
        if self._sweeper is None:
            self._schedule(monotonic())
        if self._count > self._most:
            self._make_room(client)

    def lost(self, client: ClientConnection) -> None:
        self._clients.discard(client)
        if not self._clients:
            self._empty.set()

    @property
    def connections(self) -> frozenset[ClientConnection]:
        """Those that are open, or close."""
        return frozenset(self._clients)

    # the end

    def stop(self) -> None:
        """Accept nobody and close what is idle; what is being answered is answered."""
        self.closing = True
        self.stop_listening()
        for task in self._handshakes:
            task.cancel()
        for client in list(self._clients):
            if client.is_idle:
                client.close()

    def stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._servers.clear()
        self._listening.clear()

    async def closed(self, seconds: float) -> None:
        """Return when every connection is gone; after so many seconds those that are left are closed at once."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._clients:
                    self._empty.clear()
                    await self._empty.wait()
        for client in list(self._clients):
            client.abort()
        if self._handshakes:
            await asyncio.gather(*self._handshakes, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await asyncio.sleep(0)  # aborted connections learn of it in the next turn of the loop

    # too many

    @property
    def _count(self) -> int:
        return len(self._clients) + len(self._handshakes)

    def _make_room(self, newest: ClientConnection | None) -> None:
        """For `newest`, or for a handshake, which is one too many: of the idle ones those go first that have been idle
        longest, then the oldest handshake.
        """
        self._complain()
        idle = [client for client in self._clients if client is not newest and client.is_idle]
        for client in heapq.nsmallest(AT_ONCE, idle, key=_deadline):
            client.abort()
        if idle:
            return
        shaking = next((task for task in self._handshakes if not task.cancelling()), None)
        if shaking is not None:
            shaking.cancel()
        elif newest is None:
            return
        elif newest.transport is not None and self._count <= self._most + self._spare:
            body = crowded().body("")
            newest.transport.write(_CROWDED % (len(body), body))
            newest.close()
        else:
            newest.abort()

    def _complain(self) -> None:
        now = monotonic()
        if now - self._complained >= QUIET:
            self._complained = now
            logger.warning("%d connections are open, the most there may be: closing those that are idle", self._most)

    # deadlines

    def _schedule(self, now: float) -> None:
        period = min(PERIOD, connection.IDLE / 4, connection.HEAD / 4, connection.SILENCE / 4, connection.LONGEST / 4)
        self._due = now + period
        self._sweeper = asyncio.get_running_loop().call_later(period, self._sweep, period)

    def _sweep(self, period: float) -> None:
        self._sweeper = None
        now = monotonic()
        late = now - self._due
        if late > period:  # this process was stopped, or starved: no client was slow meanwhile
            for client in self._clients:
                client.forgive(late)
        for client in [client for client in self._clients if client.deadline <= now]:
            client.expire(now)
        if self._clients:
            self._schedule(now)

    # TLS

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(listening, error)
                return
            if self._count >= self._most + self._spare:  # nothing can be said before the handshake
                sock.close()
                continue
            sock.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._shake_hands(sock))
            self._handshakes[task] = None
            task.add_done_callback(self._handshakes.pop)
            if self._count > self._most:
                self._make_room(None)

    def _pause_accepting(self, listening: socket.socket, error: OSError) -> None:
        logger.warning("clients cannot be accepted: %s", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(PAUSE, self._accept_again, listening)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    async def _shake_hands(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self, sock, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE, ssl_shutdown_timeout=connection.CLOSING
            )
        except (OSError, asyncio.CancelledError) as error:  # ssl.SSLError and TimeoutError are OSErrors
            sock.close()
            logger.debug("a TLS handshake failed: %s", error)


def _deadline(client: ClientConnection) -> float:
    return client.deadline
