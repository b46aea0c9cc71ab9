import socket

import pytest

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.proxy.clients.listening import is_loopback, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1"])
def test_loopback_is_what_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "127.evil.example", "myhost", ""])
def test_a_name_or_another_address_is_no_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_taken_port_and_a_wrong_host_are_told_apart() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StartupError, match="choose another --port"):
            listen("127.0.0.1", other.getsockname()[1])
    with pytest.raises(ConfigurationError, match="--host"):
        listen("no.such.host.invalid", 0)
