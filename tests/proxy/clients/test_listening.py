import errno
import socket
from typing import Any

import pytest

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.proxy.clients.listening import Listening, is_loopback, leads_to, listen


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


@pytest.mark.parametrize(
    ("host", "url", "leads"),
    [
        ("127.0.0.1", "http://127.0.0.1:{port}/v1", True),
        ("127.0.0.1", "http://localhost:{port}", True),
        ("127.0.0.1", "http://0.0.0.0:{port}", True),
        ("127.0.0.1", "https://127.0.0.1:{port}", True),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]:{port}", True),
        ("127.0.0.1", "http://127.0.0.1:{other}", False),
        ("127.0.0.1", "http://127.0.0.2:{port}", False),
        ("127.0.0.1", "http://[::1]:{port}", False),
        ("127.0.0.1", "http://127.0.0.1", False),
        ("127.0.0.1", "http://no.such.host.invalid:{port}", False),
        ("0.0.0.0", "http://127.0.0.1:{port}", True),
        ("0.0.0.0", "http://192.0.2.1:{port}", False),
        ("::", "http://[::1]:{port}", True),
        ("::", "http://127.0.0.1:{port}", True),
    ],
)
def test_a_url_leads_to_a_socket_if_its_port_and_one_of_its_addresses_do(host: str, url: str, leads: bool) -> None:
    with listen(host, 0) as listening:
        port = listening.port
        assert leads_to(url.format(port=port, other=port ^ 1), listening) is leads


def test_a_url_without_a_port_means_that_of_its_scheme() -> None:
    class Bound:
        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", 443

    listening = Listening(sockets=(Bound(),))  # type: ignore[arg-type]
    assert leads_to("https://127.0.0.1", listening)
    assert not leads_to("http://127.0.0.1", listening)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name `both` is the machine itself in either family, and one address stands there twice."""
    if not _has("::1"):
        pytest.skip("this machine has no IPv6")
    _name(monkeypatch, both=["::1", "127.0.0.1", "127.0.0.1"])


def _has(host: str) -> bool:
    with socket.socket(socket.AF_INET6) as trial:
        try:
            trial.bind((host, 0))
        except OSError:
            return False
        return True


def _name(monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
    """Lets `names` have these addresses."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *more: Any, **others: Any) -> list[Any]:
        return [found for address in names.get(host, [host]) for found in real(address, *more, **others)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def addresses(listening: Listening) -> set[str]:
    return {one.getsockname()[0] for one in listening.sockets}


def reached(listening: Listening, *hosts: str) -> None:
    for host in hosts:
        socket.create_connection((host, listening.port), timeout=5).close()


@pytest.mark.usefixtures("both")
def test_a_name_is_served_at_each_of_its_addresses_on_the_same_port() -> None:
    with listen("both", 0) as listening:
        assert len(listening.sockets) == 2
        assert addresses(listening) == {"::1", "127.0.0.1"}
        assert {one.getsockname()[1] for one in listening.sockets} == {listening.port}
        reached(listening, "::1", "127.0.0.1")
        assert is_loopback(listening)


@pytest.mark.usefixtures("both")
def test_a_port_that_is_taken_at_one_address_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match="choose another --port"):
            listen("both", port)
    with listen("both", port) as listening:  # the socket of ::1 was closed
        assert len(listening.sockets) == 2


@pytest.mark.usefixtures("both")
def test_port_0_is_one_that_is_free_at_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port that the system picks for the first address is taken at the second, twice."""
    real, tried, refused = socket.socket.bind, list[int](), list[int]()

    def bind(self: socket.socket, address: Any) -> None:
        if address[0] == "127.0.0.1" and len(refused) < 2:
            refused.append(address[1])
            raise OSError(errno.EADDRINUSE, "Address already in use")
        real(self, address)
        tried.append(self.getsockname()[1])

    monkeypatch.setattr(socket.socket, "bind", bind)
    with listen("both", 0) as listening:
        assert tried == [*refused, listening.port, listening.port]
        assert len(listening.sockets) == 2


def test_a_port_that_is_free_nowhere_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: Any) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(StartupError, match="Address already in use"):
        listen("127.0.0.1", 0)


def test_an_address_that_this_machine_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ::1 in /etc/hosts where IPv6 is switched off; 192.0.2.1 is nobody's."""
    _name(monkeypatch, partly=["192.0.2.1", "127.0.0.1"], not_here=["192.0.2.1"])
    with listen("partly", 0) as listening:
        assert addresses(listening) == {"127.0.0.1"}
    with pytest.raises(StartupError, match="cannot listen on not_here:0"):
        listen("not_here", 0)


def test_one_address_that_others_reach_is_enough_to_be_no_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        assert is_loopback(Listening(sockets=(near,)))
        assert not is_loopback(Listening(sockets=(near, far)))
        assert not is_loopback(Listening(sockets=(far, near)))
