"""Connections to engines between two requests. Pure: closing them is asked of the connections."""

from typing import Generic, Protocol, TypeVar

from slotproxy.instances.upstream import Upstream


class Connection(Protocol):
    """One that may become idle."""

    upstream: Upstream
    since: float  # when it became idle, on the clock that callers use

    @property
    def transport(self) -> object | None:
        """None: it is closed."""

    def abort(self) -> None: ...


C = TypeVar("C", bound=Connection)


class IdleConnections(Generic[C]):
    """Connections that may be used again, newest first. An engine has no more of them than it has slots."""

    def __init__(self) -> None:
        self._idle: dict[Upstream, list[C]] = {}

    def take(self, upstream: Upstream, now: float) -> C | None:
        """The newest one that is not older than the engine's keep-alive allows."""
        stack = self._idle.get(upstream)
        while stack:
            connection = stack.pop()
            if connection.transport is not None and now - connection.since < upstream.keepalive:
                return connection
            connection.abort()
        return None

    def put(self, connection: C) -> None:
        upstream = connection.upstream
        stack = self._idle.get(upstream)
        if stack is None:
            stack = self._idle[upstream] = []
        stack.append(connection)
        if len(stack) > upstream.slots:
            stack.pop(0).abort()

    def forget(self, connection: C) -> None:
        stack = self._idle.get(connection.upstream)
        if stack and connection in stack:
            stack.remove(connection)
        if not stack:
            self._idle.pop(connection.upstream, None)

    def expire(self, now: float) -> None:
        """Close what is too old to be used again."""
        for connection in [c for stack in self._idle.values() for c in stack]:
            if now - connection.since >= connection.upstream.keepalive:
                self.forget(connection)
                connection.abort()

    def close(self) -> None:
        for connection in [c for stack in self._idle.values() for c in stack]:
            connection.abort()
        self._idle.clear()
