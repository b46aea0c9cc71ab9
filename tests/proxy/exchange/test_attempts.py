from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.exchange.attempts import MOST, NO_ATTEMPTS


def engine(number: int) -> Upstream:
    return Upstream(instance=str(number), host="h", port=1)


@given(st.lists(st.booleans(), max_size=9))
def test_a_request_goes_on_until_two_upstreams_had_it_and_asks_nobody_twice(sent: list[bool]) -> None:
    attempts, engines = NO_ATTEMPTS, [engine(number) for number in range(len(sent))]
    for number, (had_it, upstream) in enumerate(zip(sent, engines, strict=True)):
        assert attempts.may_go_on is (sum(sent[:number]) < MOST)
        attempts = attempts.failed_on(upstream, sent=had_it)
        assert attempts.tried == set(engines[: number + 1])
    assert attempts.sent == sum(sent)


def test_a_stale_connection_is_no_try_and_is_remembered() -> None:
    attempts = NO_ATTEMPTS.met_a_stale_connection()
    assert (attempts.stale, attempts.sent, attempts.tried) == (True, 0, frozenset())
    assert attempts.failed_on(engine(0), sent=True).stale
    assert not NO_ATTEMPTS.failed_on(engine(0), sent=True).stale
