import socket

import pytest

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.proxy.clients.listening import is_loopback, leads_to, listen


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
        port = listening.getsockname()[1]
        assert leads_to(url.format(port=port, other=port ^ 1), listening) is leads


def test_a_url_without_a_port_means_that_of_its_scheme() -> None:
    class Listening:
        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", 443

    assert leads_to("https://127.0.0.1", Listening())  # type: ignore[arg-type]
    assert not leads_to("http://127.0.0.1", Listening())  # type: ignore[arg-type]
