from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.registry import Collector

from slotproxy.proxy.accounts.counters import Spread, Tally

BOUNDS = (0.1, 1, 2.5)


class Page(Collector):
    def __init__(self, *parts: Tally | Spread) -> None:
        self.parts = parts

    def collect(self) -> list[object]:  # type: ignore[override]
        return [part.family() for part in self.parts]


def page_of(*parts: Tally | Spread) -> list[str]:
    registry = CollectorRegistry()
    registry.register(Page(*parts))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


@given(st.lists(st.one_of(st.floats(0, 5), st.sampled_from(BOUNDS))))
def test_a_spread_is_what_prometheus_clients_own_histogram_would_be(values: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("x", "text", buckets=BOUNDS, registry=registry)
    ours = Spread("x", "text", BOUNDS)
    for value in values:
        theirs.observe(value)
        ours.observe(value)
    expected = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    assert page_of(ours) == [line for line in expected if "_created" not in line]
    assert bisect_left(BOUNDS, 1) == 1, "an upper bound belongs to its bucket"


def test_a_tally_counts_by_label() -> None:
    tally = Tally("slotproxy_x", "text", "a", "b", start=(("p", "q"),))
    tally.add("1", "2")
    tally.add("1", "2", amount=3)
    assert page_of(tally) == ['slotproxy_x_total{a="p",b="q"} 0.0', 'slotproxy_x_total{a="1",b="2"} 4.0']
