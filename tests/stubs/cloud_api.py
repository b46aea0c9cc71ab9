"""A paid API in the test's own loop: OpenAI's and Anthropic's ways of keys, limits, refusals and streams, over TLS."""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

KEY = "sk-of-the-proxy"


@dataclass(kw_only=True)
class Asked:
    """One request as it came."""

    at: float  # the loop's clock
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(kw_only=True)
class CloudApi:
    """Serves both APIs on one port. `script`: refusals that the next requests get, as status, headers and body."""

    tls: ssl.SSLContext | None = None
    script: deque[tuple[int, dict[str, str], Any]] = field(default_factory=deque)
    limits: dict[str, str] = field(default_factory=dict)  # header fields of every answer
    asked: list[Asked] = field(default_factory=list)
    stream_ends_with: bytes = b""  # an event instead of the stream's proper end
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # generations wait for it
    working: int = 0
    peak: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self.gate.set()
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://localhost:{self.port}"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._serve))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "localhost", 0, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.gate.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        anthropic = "anthropic-version" in request.headers
        given = request.headers.get("x-api-key" if anthropic else "authorization", "")
        if given != (KEY if anthropic else f"Bearer {KEY}"):
            return _error(anthropic, 401, "authentication_error", {})
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "big-model", "object": "model"}]})
        if request.path not in ("/v1/messages", "/v1/chat/completions"):
            return _error(anthropic, 404, "not_found_error", {})
        body = await request.json()
        now = asyncio.get_running_loop().time()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(at=now, path=request.path, headers=headers, body=body))
        if self.script:
            status, headers, answer = self.script.popleft()
            return web.json_response(answer, status=status, headers=self.limits | headers)
        self.working += 1
        self.peak = max(self.peak, self.working)
        try:
            await self.gate.wait()
            events = _anthropic_events() if request.path == "/v1/messages" else _openai_events()
            if body.get("stream") is True:
                return await self._stream(request, events)
            return web.json_response(
                _anthropic_message() if request.path == "/v1/messages" else _openai_completion(), headers=self.limits
            )
        finally:
            self.working -= 1

    async def _stream(self, request: web.BaseRequest, events: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **self.limits})
        await response.prepare(request)
        for event in [*events[:-1], self.stream_ends_with or events[-1]]:
            await response.write(event)
        await response.write_eof()
        return response


def openai_error(code: str) -> dict[str, Any]:
    return {"error": {"message": f"No: {code}.", "type": code, "param": None, "code": code}}


def anthropic_error(kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": f"No: {kind}."}, "request_id": "req_1"}


def _error(anthropic: bool, status: int, kind: str, headers: dict[str, str]) -> web.Response:
    answer = anthropic_error(kind) if anthropic else openai_error(kind)
    return web.json_response(answer, status=status, headers=headers)


def _openai_completion() -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice], "usage": usage}


def _openai_events() -> list[bytes]:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "big"}
    deltas = [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo."}]
    chunks = [base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]


def _anthropic_message() -> dict[str, Any]:
    usage = {"input_tokens": 5, "output_tokens": 2}
    content = [{"type": "text", "text": "Hello."}]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "big", "content": content}
    return message | {"stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


def _anthropic_events() -> list[bytes]:
    start = _anthropic_message() | {"content": [], "stop_reason": None}
    text = {"type": "text_delta", "text": "Hello."}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": text},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
