"""A stream of nothing but comments is silent; anything else it says, in whatever pieces, is not."""

from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.accounts.meter import Meter
from slotproxy.proxy.accounts.silence import Silence

PATIENCE = 60.0
LINES = st.sampled_from([b": ping\n\n", b":\n\n", b'data: {"x":1}\n\n', b"event: a\ndata: b\n\n", b"\n"])


@given(st.lists(LINES, max_size=30), st.lists(LINES, max_size=30), st.integers(1, 9))
def test_more_than_comments_is_found_wherever_the_bytes_were_cut(
    before: list[bytes], after: list[bytes], step: int
) -> None:
    meter = Meter(stream=True)
    meter.feed(b"".join(before))
    since = meter.size
    data = b"".join(after)
    for at in range(0, len(data), step):
        meter.feed(data[at : at + step])
    assert meter.more_than_comments(since) == any(not line.startswith(b":") and line.strip() for line in after)


def test_what_is_more_than_was_kept_is_more_than_comments() -> None:
    meter = Meter(stream=True)
    meter.feed(b"data: " + b"x" * 100_000 + b"\n\n")
    assert meter.more_than_comments(0)


def test_comments_do_not_break_the_silence_and_an_event_does() -> None:
    meter, silence = Meter(stream=True), Silence(0.0)
    meter.feed(b"data: 1\n\n")
    ended = []
    for now in range(1, 300):
        meter.feed(b": ping\n\n")
        if now == 50:
            meter.feed(b"data: 2\n\n")
        if silence.lasts(meter, float(now), PATIENCE):
            ended.append(now)
    first = ended[0]
    assert 50 + PATIENCE < first <= 50 + PATIENCE * 1.5 + 1


def test_a_stream_that_goes_on_is_never_silent() -> None:
    meter, silence = Meter(stream=True), Silence(0.0)
    for now in range(1, 1000):
        if now % 50 == 0:
            meter.feed(b"data: 1\n\n")
        assert not silence.lasts(meter, float(now), PATIENCE)
