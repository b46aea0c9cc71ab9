"""Counters and histograms that cost next to nothing to touch. Pure.

`prometheus_client`'s own take a lock and walk their buckets at every touch, 7 us for one request; these are numbers in
dictionaries, of one event loop, and become `prometheus_client`'s families when somebody scrapes.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

Labels = tuple[str, ...]


class Tally:
    """One counter, by the values of its labels."""

    __slots__ = ("_labels", "_name", "_text", "counts")

    def __init__(self, name: str, text: str, *labels: str, start: Sequence[Labels] = ()) -> None:
        self._name, self._text, self._labels = name, text, labels
        self.counts: dict[Labels, float] = dict.fromkeys(start, 0)

    def add(self, *values: str, amount: float = 1) -> None:
        self.counts[values] = self.counts.get(values, 0) + amount

    def family(self) -> Metric:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self.counts.items():
            family.add_metric(values, count)
        return family


class Spread:
    """One histogram, by the values of its labels. `bounds` are upper ones, inclusive, ascending."""

    __slots__ = ("_bounds", "_labels", "_name", "_seen", "_text")

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self._name, self._text, self._bounds, self._labels = name, text, bounds, labels
        self._seen: dict[Labels, tuple[list[int], list[float]]] = {}
        if not labels:
            self._new(())

    def _new(self, values: Labels) -> tuple[list[int], list[float]]:
        entry = self._seen[values] = [0] * (len(self._bounds) + 1), [0.0]
        return entry

    def observe(self, value: float, *values: str) -> None:
        buckets, total = self._seen.get(values) or self._new(values)
        buckets[bisect_left(self._bounds, value)] += 1
        total[0] += value

    def observe_zeros(self, number: int) -> None:
        """So many zeros, in a histogram without labels."""
        self._seen[()][0][0] += number

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        names = [*map(str, map(float, self._bounds)), "+Inf"]
        for values, (buckets, total) in self._seen.items():
            family.add_metric(values, list(zip(names, accumulate(buckets), strict=True)), total[0])
        return family
