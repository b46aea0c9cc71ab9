import socket

import pytest

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.proxy.clients.listening import is_loopback, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "127.1", "localhost", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_what_only_this_machine_reaches_however_it_is_written(host: str) -> None:
    with listen(host, 0) as listening:
        assert is_loopback(listening)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_socket_that_others_reach_is_no_loopback(host: str) -> None:
    with listen(host, 0) as listening:
        assert not is_loopback(listening)


def test_a_taken_port_and_a_wrong_host_are_told_apart() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StartupError, match="choose another --port"):
            listen("127.0.0.1", other.getsockname()[1])
    with pytest.raises(ConfigurationError, match="--host"):
        listen("no.such.host.invalid", 0)
