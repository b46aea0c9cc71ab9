import pytest

from slotproxy.proxy.observed import TAIL, Stream, error_event
from slotproxy.proxy.relay import Failure, Kind

ERROR = b'{"error":{"type":"server_error","code":"server_is_overloaded"}}'
STREAM = b'data: {"choices":[]}\n\ndata: ' + ERROR + b"\n\ndata: [DONE]\n\n"


class Destination:
    def __init__(self) -> None:
        self.body = b""
        self.failures: list[Failure] = []

    def receive(self, data: bytes, complete: bool) -> Failure | None:
        self.body += data
        return None

    def receive_chunk(self, chunk: bytes, content: bytes) -> None:
        self.body += content

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)

    def keep(self, refusal: object) -> None:
        raise AssertionError

    def take_over(self, connection: object) -> None:
        raise AssertionError


@pytest.mark.parametrize("cut", range(0, len(STREAM), 7))
@pytest.mark.parametrize("dies", [False, True])
def test_an_error_event_is_found_wherever_the_stream_was_cut_and_however_it_ended(cut: int, dies: bool) -> None:
    told: list[bytes] = []
    answer = Destination()
    stream = Stream(answer, lambda status, fields, body: told.append(body))
    stream.receive_chunk(b"", b"data: filler\n\n" * TAIL)
    stream.receive(STREAM[:cut], False)
    stream.receive(STREAM[cut:], not dies)
    if dies:
        stream.fail(Failure(Kind.RESET, "gone"))
    assert told == [ERROR]
    assert answer.body.endswith(STREAM)
    assert len(answer.failures) == dies


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
