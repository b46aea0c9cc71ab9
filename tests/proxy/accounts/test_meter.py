import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.accounts.meter import KEPT, MANY, Meter, Usage, find_usage, usage_of

USAGE = b'{"prompt_tokens":31,"completion_tokens":8,"total_tokens":39,"prompt_tokens_details":{"cached_tokens":5}}'
STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n: ping\n\ndata: {"choices":[{"delta":{"content":"data:"}}]}\n\n'
    b'data: {"choices":[],"usage":' + USAGE + b"}\n\ndata: [DONE]\n\n"
)
LONG = b"".join(b'data: {"choices":[{"delta":{"content":"%0200d"}}]}\n\n' % n for n in range(800)) + STREAM


def fed(data: bytes, cuts: list[int], *, stream: bool = True) -> Meter:
    meter = Meter(stream=stream)
    for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
        meter.feed(data[start:end])
    return meter


@given(st.lists(st.integers(0, len(STREAM))))
def test_the_counts_do_not_depend_on_where_the_bytes_were_cut(cuts: list[int]) -> None:
    meter = fed(STREAM, cuts)
    assert (meter.events, meter.done) == (4, True)
    assert meter.usage() == Usage(prompt=31, completion=8, cached=5)


@given(st.lists(st.integers(0, len(LONG)), max_size=200))
def test_nor_in_a_stream_longer_than_what_is_kept(cuts: list[int]) -> None:
    assert len(LONG) > 8 * KEPT
    meter = fed(LONG, cuts)
    assert (meter.events, meter.done) == (804, True)
    assert meter.usage() == Usage(prompt=31, completion=8, cached=5)


def test_what_is_kept_is_bounded() -> None:
    meter = Meter(stream=True)
    for _ in range(3000):
        meter.feed(b"data: {}\n\n" * 100)
        assert sum(map(len, meter._blocks)) <= 2 * KEPT + 1000
        assert len(meter.pieces) < MANY
    assert meter.events == 300_000


@given(
    st.lists(st.integers(1, 300) | st.integers(4000, 70_000), max_size=120),
    st.lists(st.sampled_from(("tail", "size", "events", "has_event", "at_boundary")), min_size=1, max_size=10),
)
def test_the_end_is_kept_and_nothing_is_counted_twice_whatever_is_looked_at_between_pieces(
    sizes: list[int], looks: list[str]
) -> None:
    data = LONG * (sum(sizes) // len(LONG) + 1)
    meter, end = Meter(stream=True), 0
    for number, size in enumerate(sizes):
        meter.feed(data[end : end + size])
        end += size
        getattr(meter, looks[number % len(looks)])
        assert sum(map(len, meter._blocks)) <= 2 * KEPT + 1000
    assert meter.size == end
    assert meter.events == (b"\n" + data[:end]).count(b"\ndata:")
    assert meter.tail == (b"\n" + data[:end])[-KEPT:]
    assert meter._kept()[-min(end, KEPT) :] == data[:end][-KEPT:] or not end


def test_to_ask_for_the_size_puts_nothing_together() -> None:
    meter = Meter(stream=True)
    for number in range(MANY - 1):
        meter.feed(b"x")
        assert (meter.size, len(meter.pieces)) == (number + 1, number + 1)


def test_a_stream_without_usage_counts_one_token_per_event() -> None:
    meter = fed(b'data: {"a":1}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n', [])
    assert meter.usage() == Usage(completion=2)


def test_llama_timings_stand_in_for_usage() -> None:
    body = b'{"content":"x","timings":{"cache_n":10,"prompt_n":21,"predicted_n":8,"predicted_ms":1.5}}'
    assert find_usage(body) == Usage(prompt=31, completion=8, cached=10)


@pytest.mark.parametrize(
    ("usage", "prompt", "cached"),
    [
        ('"input_tokens": 7, "output_tokens": 3', 7, None),
        ('"prompt_tokens": 7, "completion_tokens": 3', 7, None),
        ('"prompt_tokens": 97, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 90}', 97, 90),
        ('"prompt_tokens": 97, "completion_tokens": 3, "prompt_tokens_details": {}', 97, None),
        ('"prompt_tokens": 97, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": -1}', 97, None),
        ('"input_tokens": 7, "cache_read_input_tokens": 90, "output_tokens": 3', 97, 90),
        (
            '"input_tokens": 7, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 0, "output_tokens": 3',
            27,
            0,
        ),
        ('"input_tokens": 97, "input_tokens_details": {"cached_tokens": 90}, "output_tokens": 3', 97, 90),
    ],
)
def test_prompt_tokens_are_all_of_the_prompt_whatever_the_api_calls_so(
    usage: str, prompt: int, cached: int | None
) -> None:
    assert usage_of(f'{{"usage": {{{usage}}}}}'.encode()) == Usage(prompt=prompt, completion=3, cached=cached)


def test_anthropic_usage_is_put_together_from_both_events_although_they_are_far_apart() -> None:
    start = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":12,"cache_read_input_tokens":4}}}\n\n'
    end = b'event: message_delta\ndata: {"usage":{"output_tokens":99}}\n\n'
    between = b'event: content_block_delta\ndata: {"delta":{"text":"word"}}\n\n'
    assert fed(start + end, []).usage() == Usage(prompt=16, completion=99, cached=4)
    assert fed(start + between * 400 + end, []).usage() == Usage(prompt=16, completion=99, cached=4)
    assert fed(start + between * 5000 + end, list(range(0, 300_000, 61))).usage() == Usage(16, 99, 4)


def test_text_that_looks_like_usage_is_not_believed() -> None:
    content = json.dumps({"content": 'say "usage": {"prompt_tokens": 999}'}).encode()
    assert find_usage(content) == Usage()
    assert find_usage(b'{"usage":null}') == Usage()
    assert find_usage(b'{"usage":{"prompt_tokens":"many","completion_tokens":-1}}') == Usage()
    assert find_usage(b'{"usage":{"prompt_tokens":') == Usage()


def test_a_body_that_is_no_stream_has_no_tokens_but_those_it_names() -> None:
    assert fed(b'{"data":[{"embedding":[1,2]}]}', [3], stream=False).usage() == Usage()


def test_an_event_may_begin_at_the_start_and_after_a_blank_line_only() -> None:
    meter = Meter(stream=True)
    assert meter.at_boundary
    for chunk, boundary in ((b"data: {", False), (b"}\n", False), (b"\n", True), (b": x", False), (b"\r\n\r\n", True)):
        meter.feed(chunk)
        assert meter.at_boundary is boundary
