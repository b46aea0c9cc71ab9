"""What the stand-in engine says and how it is asked: the bytes of a llama.cpp server, with the time of sending in them.

Every proxy hands `max_tokens` and `seed` on, so these two say what an answer is to be like:

streamed    `max_tokens` events, `seed` milliseconds apart; without `seed` the recorded stream at its own pace
otherwise   a short answer; with `max_tokens` one of so many bytes
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RECORDING = Path(__file__).with_name("recorded_stream.json")
STAMP = re.compile(rb'"content": ?"(\d{16})"')  # nanoseconds of the machine's monotonic clock; some proxies add a space

_ID = b"chatcmpl-T7tuoeoaqZa0wmkyQB0IVHpA6gyGAGZc"
_CHUNK = (
    b'data: {"choices":[{"finish_reason":%b,"index":0,"delta":%b}],"created":1795267429,"id":"' + _ID + b'",'
    b'"model":"bench","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"%b}\n\n'
)
_TIMINGS = (
    b',"timings":{"cache_n":30,"prompt_n":1,"prompt_ms":100.883,"prompt_per_token_ms":100.883,'
    b'"prompt_per_second":9.912472864605533,"predicted_n":4,"predicted_ms":367.794,'
    b'"predicted_per_token_ms":122.598,"predicted_per_second":8.156739914191096}'
)
_SERVER = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = (
    _SERVER + b"X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STREAM_OPENING = chunk(_CHUNK % (b"null", b'{"role":"assistant","content":null}', b""))
STREAM_END = chunk(_CHUNK % (b'"length"', b"{}", _TIMINGS) + b"data: [DONE]\n\n") + b"0\r\n\r\n"
_EVENT = chunk(_CHUNK % (b"null", b'{"content":"%b"}' % (b"0" * 16), b""))
BEFORE_STAMP, AFTER_STAMP = _EVENT.split(b"0" * 16)


def answer(body: bytes) -> bytes:
    """A whole answer with a JSON body."""
    return _SERVER + b"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def completion(text: str) -> bytes:
    """A chat completion as llama.cpp words it; 650 bytes with a short text."""
    usage = {"completion_tokens": 8, "prompt_tokens": 31, "total_tokens": 39}
    timings = {"cache_n": 0, "prompt_n": 31, "prompt_ms": 651.957, "prompt_per_token_ms": 21.030870967741937}
    timings |= {"prompt_per_second": 47.54914818001801, "predicted_n": 8, "predicted_ms": 956.885}
    timings |= {"predicted_per_token_ms": 136.69785714285715, "predicted_per_second": 7.315403627395142}
    message = {"role": "assistant", "content": text}
    value = {
        "choices": [{"finish_reason": "length", "index": 0, "message": message}],
        "created": 1795267429,
        "model": "bench",
        "system_fingerprint": "b0-unknown",
        "object": "chat.completion",
        "usage": usage | {"prompt_tokens_details": {"cached_tokens": 0}},
        "id": _ID.decode(),
        "timings": timings,
    }
    return json.dumps(value, separators=(",", ":")).encode()


SHORT = answer(completion("Hello! How can I assist you today"))
MODELS = answer(b'{"object":"list","data":[{"id":"bench","object":"model","meta":{"n_ctx":4096}}]}')
HEALTHY = answer(b'{"status":"ok"}')


@cache
def big(size: int) -> bytes:
    return answer(completion("x" * size))


def request(**fields: object) -> bytes:
    """A chat request as an SDK sends it, head and body."""
    messages = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Tell me about rivers."}]
    body = json.dumps({"model": "bench", "messages": messages} | fields).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        "Content-Type: application/json\r\nUser-Agent: slotproxy-bench\r\nAuthorization: Bearer none\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A real engine's stream: `chunks` of its body, and the seconds each came after the one before."""

    chunks: tuple[bytes, ...]
    gaps: tuple[float, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def events(self) -> int:
        return self.body.count(b"data: ")

    def save(self) -> None:
        rows = [[gap, text.decode()] for gap, text in zip(self.gaps, self.chunks, strict=True)]
        RECORDING.write_text(json.dumps(rows, indent=0) + "\n")


@cache
def recording() -> Recording:
    rows = json.loads(RECORDING.read_text())
    return Recording(chunks=tuple(text.encode() for _, text in rows), gaps=tuple(gap for gap, _ in rows))
