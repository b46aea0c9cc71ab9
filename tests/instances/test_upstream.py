import pytest

from slotproxy.instances.upstream import Upstream


@pytest.mark.parametrize(
    ("host", "authority"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("a.example", "a.example:80")]
)
def test_its_authority_is_what_a_host_field_holds(host: str, authority: str) -> None:
    assert Upstream(instance="0", host=host, port=80).authority == authority


def test_a_restarted_instance_is_another_upstream() -> None:
    before, after = (Upstream(instance="0", host="127.0.0.1", port=80) for _ in range(2))
    assert before != after
    assert len({before, after}) == 2
