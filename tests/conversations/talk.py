"""One request and what became of it: the client of every rival, and the times and tokens it reads in the answer."""

import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Self

import aiohttp

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
BUFFER = 1 << 20  # bytes of one line of a stream, at most half of it
LOST = 0  # the status of an answer that did not come whole
Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A request's answer. Times are seconds from the moment it was asked, waiting included."""

    status: int
    first: float  # to the first event with text; not a number where none came
    seconds: float  # to the end
    text: str  # of the answer, or of the refusal
    prompt: int = 0  # tokens
    cached: int = 0  # prompt tokens that the engine had
    computed: int = 0  # prompt tokens that it had not
    completion: int = 0  # tokens
    serving: float = 0.0  # seconds the engine worked on it, as it says itself
    top: tuple[tuple[str, float], ...] = ()  # the most likely first tokens and their log probabilities
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def served(self) -> bool:
        return self.status == 200

    @property
    def affinity(self) -> str:
        """hit, handed-over, spill or cold; none where nobody says it."""
        return self.headers.get("x-slotproxy-affinity", "none").partition(";")[0].strip()

    @property
    def instance(self) -> str:
        return self.headers.get("x-slotproxy-instance", "")

    @property
    def queued(self) -> float:
        """Seconds in the proxy's queue, as it says itself; not a number where it does not."""
        return float(self.headers.get("x-slotproxy-queue-ms", "nan")) / 1000


class Reading:
    """What the events of a stream, of chat completions or of Anthropic's messages, say together."""

    def __init__(self) -> None:
        self.text = ""
        self.done = False
        self.first = math.nan  # when the first text came
        self.top: tuple[tuple[str, float], ...] = ()
        self.numbers = {"prompt": 0, "cached": 0, "computed": 0, "completion": 0}
        self.serving = 0.0

    def take(self, event: Body, now: float) -> None:
        """An event, and when it came."""
        self._count(event)
        delta = event.get("delta") or {}
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            self.done = self.done or choice.get("finish_reason") is not None
            if not self.top and choice.get("logprobs"):
                self.top = first_of(choice["logprobs"])
        self.done = self.done or event.get("type") == "message_stop"
        text = delta.get("content") or delta.get("text") or ""
        self.text += text
        if text and math.isnan(self.first):
            self.first = now

    def _count(self, event: Body) -> None:
        usage = event.get("usage") or (event.get("message") or {}).get("usage")
        if usage:
            self._count_usage(usage)
        if timings := event.get("timings"):
            cached, computed = timings.get("cache_n", 0), timings["prompt_n"]
            self.numbers |= {"prompt": cached + computed, "cached": cached, "computed": computed}
            self.numbers["completion"] = timings["predicted_n"]
            self.serving = (timings["prompt_ms"] + timings["predicted_ms"]) / 1000

    def _count_usage(self, usage: Body) -> None:
        numbers = self.numbers
        numbers["completion"] = usage.get("completion_tokens", usage.get("output_tokens", 0)) or numbers["completion"]
        if "prompt_tokens" in usage:
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            numbers |= {"prompt": usage["prompt_tokens"], "cached": cached, "computed": usage["prompt_tokens"] - cached}
        elif usage.get("input_tokens") or usage.get("cache_read_input_tokens"):
            cached, computed = usage.get("cache_read_input_tokens") or 0, usage.get("input_tokens") or 0
            numbers |= {"prompt": cached + computed, "cached": cached, "computed": computed}


def first_of(logprobs: Body) -> tuple[tuple[str, float], ...]:
    """The first token's most likely alternatives."""
    content = logprobs.get("content") or ()
    return tuple((one["token"], one["logprob"]) for one in content[0]["top_logprobs"]) if content else ()


@dataclass(slots=True, kw_only=True)
class Client:
    """A client at one port, with a new connection for each request and all the patience it needs."""

    port: int
    session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def at(cls, port: int) -> AsyncIterator[Self]:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=BUFFER) as session:
            yield cls(port=port, session=session)

    async def turn(self, path: str, body: Body, headers: Mapping[str, str] | None = None) -> Turn:
        """Ask for a stream and read it to its end; a connection that is lost is a turn with the status `LOST`."""
        began = monotonic()
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            async with self.session.post(url, json={**body, "stream": True}, headers=headers) as answer:
                return await _read(answer, began)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Turn(status=LOST, first=math.nan, seconds=monotonic() - began, text=str(error))

    async def json(self, method: str, path: str, body: Body | None = None, **headers: str) -> Any:
        """The JSON of an answer that is no stream. Raises aiohttp.ClientError when it is refused."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, json=body, headers=headers, raise_for_status=True) as answer:
            return await answer.json(content_type=None)


async def _read(answer: aiohttp.ClientResponse, began: float) -> Turn:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if answer.status != 200:
        text = await answer.text()
        return Turn(
            status=answer.status, first=math.nan, seconds=monotonic() - began, text=text.strip(), headers=headers
        )
    reading = Reading()
    async for line in answer.content:
        if line.startswith(b"data: {"):
            reading.take(json.loads(line[6:]), monotonic() - began)
    return Turn(
        status=200 if reading.done else LOST,
        first=reading.first,
        seconds=monotonic() - began,
        text=reading.text,
        serving=reading.serving,
        top=reading.top,
        headers=headers,
        **reading.numbers,
    )


def chat(messages: list[Body], max_tokens: int, **more: Any) -> Body:
    """The body of a greedy chat completion that says what it has cost."""
    usage = {"stream_options": {"include_usage": True}}
    return {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "seed": 42} | usage | more
