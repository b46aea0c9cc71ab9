from dataclasses import dataclass

import pytest

from slotproxy.proxy.engines.failure import Kind
from slotproxy.proxy.exchange.deadlines import Limits, overdue, unread

LIMITS = Limits(queue=0, queue_timeout=0.0, prefill_timeout=100.0, stall_timeout=10.0)


@dataclass
class Answer:
    """`comments`: seconds for which nothing else has come."""

    first_byte: float = 0.0
    stream: bool = True
    paused_since: float | None = None
    heard: float = 0.0
    comments: float = 0.0

    def says_nothing(self, now: float, patience: float) -> bool:
        return self.comments > patience


@pytest.mark.parametrize(
    ("answer", "now", "kind"),
    [
        (Answer(), 100.0, None),
        (Answer(), 100.1, Kind.PREFILL_TIMEOUT),
        (Answer(heard=50.0), 150.0, None),
        (Answer(first_byte=1.0, heard=1.0), 11.0, None),
        (Answer(first_byte=1.0, heard=1.0), 11.1, Kind.STALL_TIMEOUT),
        (Answer(first_byte=1.0, heard=200.0, comments=100.0), 200.0, None),
        (Answer(first_byte=1.0, heard=200.0, comments=101.0), 200.0, Kind.STALL_TIMEOUT),
        (Answer(first_byte=1.0, heard=200.0, comments=101.0, stream=False), 200.0, None),
    ],
)
def test_an_engine_has_so_long_for_its_first_byte_and_then_from_one_to_the_next(
    answer: Answer, now: float, kind: Kind | None
) -> None:
    failure = overdue(answer, now, LIMITS)
    assert (None if failure is None else failure.kind) is kind


def test_a_client_that_reads_nothing_has_as_long() -> None:
    assert unread(Answer(), 1000.0, 10.0) is None
    assert unread(Answer(paused_since=5.0), 15.0, 10.0) is None
    failure = unread(Answer(paused_since=5.0), 15.1, 10.0)
    assert failure is not None
    assert failure.kind is Kind.SLOW_CLIENT
