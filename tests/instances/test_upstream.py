import pytest

from slotproxy.instances.upstream import Upstream


@pytest.mark.parametrize(
    ("host", "port", "tls", "authority"),
    [
        ("127.0.0.1", 8080, False, "127.0.0.1:8080"),
        ("::1", 8080, False, "[::1]:8080"),
        ("a.example", 80, False, "a.example"),
        ("a.example", 443, True, "a.example"),
        ("a.example", 443, False, "a.example:443"),
        ("::1", 443, True, "[::1]"),
    ],
)
def test_its_authority_is_what_a_host_field_holds(host: str, port: int, tls: bool, authority: str) -> None:
    assert Upstream(instance="0", host=host, port=port, tls=tls).authority == authority


def test_a_restarted_instance_is_another_upstream() -> None:
    before, after = (Upstream(instance="0", host="127.0.0.1", port=80) for _ in range(2))
    assert before != after
    assert len({before, after}) == 2
