"""A free port, and whose a port is."""

import socket

import psutil


def free(host: str) -> int:
    """A port nobody listens on now. Another process may take it before the engine does: see `owns`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def beside(host: str, port: int, count: int) -> tuple[int, ...]:
    """`count` more free ports for one that also gets `port`: all different."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free(host))
        found.discard(port)
    return tuple(found)


def owns(pid: int, port: int) -> bool:
    """Whether the process or one of its descendants listens on `port`."""
    try:
        leader = psutil.Process(pid)
        return any(_listens(process, port) for process in (leader, *leader.children(recursive=True)))
    except psutil.Error:
        return False


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)
