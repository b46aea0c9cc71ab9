import pytest

from slotproxy.proxy.accounts.meter import Meter
from slotproxy.proxy.engines.observed import error_event

ERROR = b'{"error":{"type":"server_error","code":"server_is_overloaded"}}'
STREAM = b'data: {"choices":[]}\n\ndata: ' + ERROR + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("cut", range(0, len(STREAM), 7))
def test_an_error_event_is_found_wherever_the_stream_was_cut(cut: int) -> None:
    meter = Meter(stream=True)
    meter.feed(b"data: filler\n\n" * 4000)
    meter.feed(STREAM[:cut])
    meter.feed(STREAM[cut:])
    assert error_event(meter.tail) == ERROR


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"data: [DONE]\n\n",
        b'data: {"choices":[{"delta":{"content":"\\"error\\": {}"}}]}\n\n',
        b'data: {"error"\n\n',
        b'data: {"error":null}\n\n',
        b'data: ["error"]\n\n',
        b'{"error":{"type":"overloaded_error"}}\n\n',
    ],
)
def test_text_about_errors_is_none(tail: bytes) -> None:
    assert error_event(tail) is None
