from dataclasses import dataclass, field

import pytest

from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.engines.idle import IdleConnections

UPSTREAM = Upstream(instance="0", host="h", port=1, slots=2, keepalive=4.0)


@dataclass(eq=False)
class Connection:
    since: float = 0.0
    upstream: Upstream = UPSTREAM
    transport: object | None = field(default_factory=object)
    aborted: bool = False

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def idle() -> IdleConnections[Connection]:
    return IdleConnections()


def test_the_newest_is_taken_first_and_each_once(idle: IdleConnections[Connection]) -> None:
    older, newer = Connection(), Connection()
    idle.put(older)
    idle.put(newer)
    assert [idle.take(UPSTREAM, 1.0) for _ in range(3)] == [newer, older, None]


def test_one_that_is_too_old_is_closed_and_not_taken(idle: IdleConnections[Connection]) -> None:
    old = Connection(since=1.0)
    idle.put(old)
    assert idle.take(UPSTREAM, 5.0) is None
    assert old.aborted


def test_one_that_the_engine_has_closed_is_not_taken(idle: IdleConnections[Connection]) -> None:
    closed, open_ = Connection(), Connection()
    idle.put(open_)
    idle.put(closed)
    closed.transport = None
    assert idle.take(UPSTREAM, 1.0) is open_


def test_an_engine_has_no_more_of_them_than_slots_and_the_oldest_goes(idle: IdleConnections[Connection]) -> None:
    connections = [Connection() for _ in range(3)]
    for connection in connections:
        idle.put(connection)
    assert [connection.aborted for connection in connections] == [True, False, False]


def test_connections_are_used_for_their_own_engine_only(idle: IdleConnections[Connection]) -> None:
    idle.put(Connection())
    assert idle.take(Upstream(instance="1", host="h", port=2), 1.0) is None


def test_a_forgotten_one_is_neither_taken_nor_closed(idle: IdleConnections[Connection]) -> None:
    connection = Connection()
    idle.put(connection)
    idle.forget(connection)
    idle.forget(connection)
    assert (idle.take(UPSTREAM, 1.0), connection.aborted) == (None, False)


def test_those_that_are_too_old_are_closed_in_time(idle: IdleConnections[Connection]) -> None:
    old, young = Connection(since=1.0), Connection(since=2.0)
    idle.put(old)
    idle.put(young)
    idle.expire(5.0)
    assert (old.aborted, young.aborted) == (True, False)


def test_at_the_end_all_are_closed(idle: IdleConnections[Connection]) -> None:
    connection = Connection()
    idle.put(connection)
    idle.close()
    assert (connection.aborted, idle.take(UPSTREAM, 1.0)) == (True, None)
