import os
import socket
import subprocess
import sys

import pytest

from slotproxy.instances.processes import ports

LISTEN = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
GRANDCHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTEN!r}])"


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", ports.free("127.0.0.1"))) as server:
        assert ports.owns(os.getpid(), server.getsockname()[1])


def test_further_ports_are_different_from_the_first_and_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = iter([7, 7, 8, 8, 9])
    monkeypatch.setattr(ports, "free", lambda host: next(offered))
    assert sorted(ports.beside("127.0.0.1", 7, 2)) == [8, 9]
    assert ports.beside("127.0.0.1", 7, 0) == ()


def test_a_port_is_owned_by_whoever_listens_on_it_and_by_its_ancestors_but_by_nobody_else() -> None:
    with (
        subprocess.Popen([sys.executable, "-c", GRANDCHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger,
    ):
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert ports.owns(parent.pid, port)
        assert not ports.owns(stranger.pid, port)
        for child in (parent, stranger):
            child.communicate(b"\n")
    assert not ports.owns(parent.pid, port)
