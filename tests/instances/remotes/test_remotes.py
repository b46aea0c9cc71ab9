import asyncio

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.remotes.remotes import Remotes
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.settings import UpstreamSpec
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool

ONE, TWO, THREE = (UpstreamSpec(url=f"http://127.0.0.1:{port}") for port in (1, 2, 3))


def names(remotes: Remotes) -> list[str]:
    return [remote.id for remote in remotes]


async def test_what_is_named_again_stays_and_the_rest_comes_and_goes() -> None:
    remotes = Remotes(Leases(Pool(8)), Probe(), lambda step: None)
    assert not remotes
    async with asyncio.TaskGroup() as tasks:
        remotes.adopt(remotes.plan([ONE, TWO], {}), tasks)
        first, second = remotes
        assert names(remotes) == ["u0", "u1"]
        remotes.adopt(remotes.plan([TWO, THREE], {}), tasks)
        assert first not in tuple(remotes)
        assert next(iter(remotes)) is second
        assert names(remotes) == ["u1", "u2"]  # the old one's name may still be in answers and metrics
        remotes.adopt(remotes.plan([ONE], {}), tasks)
        assert names(remotes) == ["u0"]
        remotes.adopt({}, tasks)  # their tasks end, or the group would wait for ever
    assert not remotes


async def test_a_wrong_one_is_refused_before_anything_changes() -> None:
    remotes = Remotes(Leases(Pool(8)), Probe(), lambda step: None)
    with pytest.raises(ConfigurationError):
        remotes.plan([ONE, UpstreamSpec(url="nonsense")], {})
    assert not remotes
