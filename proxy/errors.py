"""Refusals: what a client is told when the proxy itself cannot serve. Pure.

Bodies are OpenAI error objects, Anthropic's shape on `/v1/messages`. Statuses and codes are listed in docs/http.md;
what SDKs make of them decides the extra headers: `Retry-After` stays within 1 to 60 s (above, they ignore it), and
`x-should-retry: false` stops the SDKs' own retry once an engine had the prompt.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

ANTHROPIC_PATH = "/v1/messages"
QUEUE_POSITION = "x-slotproxy-queue-position"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(slots=True)
class Refusal(Exception):
    """One answer of the proxy's own. `close`: the connection cannot be used again after it."""

    status: int
    code: str
    message: str
    type: str = "server_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    said: bytes = b""  # an error object of the engine's, in the shape of the path: told as it is

    def body(self, path: str) -> bytes:
        """The error object in the shape clients of `path` expect."""
        if self.said:
            return self.said
        if path.startswith(ANTHROPIC_PATH):
            kind = _ANTHROPIC_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
            return json.dumps({"type": "error", "error": {"type": kind, "message": self.message}}).encode()
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def event(self, path: str) -> bytes:
        """The same as a server-sent event, for a stream whose head is out."""
        prefix = b"event: error\n" if path.startswith(ANTHROPIC_PATH) else b""
        return prefix + b"data: " + self.body(path) + b"\n\n"


def retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(min(60, max(1, round(seconds))))}


def bad_request(code: str, message: str, *, param: str | None = None, close: bool = False) -> Refusal:
    return Refusal(400, code, message, "invalid_request_error", param, close=close)


def malformed(message: str) -> Refusal:
    """The bytes were no HTTP we can trust the framing of: nothing after them may be read as a request."""
    return bad_request("malformed_request", message, close=True)


def head_too_large(message: str, *, status: int = 431) -> Refusal:
    """A line, a field or the whole head is over its limit. `status`: 414 for the request line."""
    return Refusal(status, "head_too_large", message, "invalid_request_error", close=True)


def not_implemented(message: str) -> Refusal:
    """HTTP that is valid and not understood here: where this message ends is unknown."""
    return Refusal(501, "not_implemented", message, "invalid_request_error", close=True)


def unknown_expectation(expected: str) -> Refusal:
    text = f"The expectation {expected[:40]!r} is not known."
    return Refusal(417, "expectation_failed", text, "invalid_request_error", close=True)


def no_room_for_bodies(limit: int) -> Refusal:
    text = f"Request bodies hold {limit} bytes of memory already, the most there may be. Try again later."
    return Refusal(503, "too_much_in_flight", text, headers=retry_after(5), close=True)


def head_timeout(seconds: float) -> Refusal:
    text = f"The head of the request did not arrive within {seconds:g} s."
    return Refusal(408, "request_timeout", text, "invalid_request_error", close=True)


def forbidden(code: str, message: str) -> Refusal:
    return Refusal(403, code, message, "invalid_request_error")


def unauthorized() -> Refusal:
    text = "A valid API key is needed: send it as 'Authorization: Bearer KEY', 'x-api-key: KEY' or 'api-key: KEY'."
    return Refusal(401, "invalid_api_key", text, "invalid_request_error", headers={"WWW-Authenticate": "Bearer"})


def not_found(path: str) -> Refusal:
    return Refusal(404, "not_found", f"There is nothing at {path}.", "invalid_request_error")


def model_not_found(name: str) -> Refusal:
    """As OpenAI says it."""
    text = f"The model {name[:200]!r} does not exist."
    return Refusal(404, "model_not_found", text, "invalid_request_error", "model")


def method_not_allowed(allowed: str) -> Refusal:
    text = f"Only {allowed} is answered here."
    return Refusal(405, "method_not_allowed", text, "invalid_request_error", headers={"Allow": allowed})


def too_large(limit: int) -> Refusal:
    text = f"The request body is larger than the limit of {limit} bytes (--max-body)."
    return Refusal(413, "request_too_large", text, "invalid_request_error", close=True)


def body_timeout(seconds: float) -> Refusal:
    text = f"The request body did not arrive within {seconds:g} s."
    return Refusal(408, "request_timeout", text, "invalid_request_error", close=True)


def _queued(wait: float, position: int) -> dict[str, str]:
    """What a client is told that had no slot: when to come again, how many were or would have been before it."""
    return {**retry_after(wait), QUEUE_POSITION: str(position)}


def queue_full(limit: int, wait: float, position: int) -> Refusal:
    text = f"All slots are busy and {limit} requests are waiting already. Try again later."
    return Refusal(429, "queue_full", text, "rate_limit_error", headers=_queued(wait, position))


def client_queue_full(waiting: int, wait: float, position: int) -> Refusal:
    requests = "1 request" if waiting == 1 else f"{waiting} requests"
    text = f"This client has {requests} waiting already, the most it may have (--queue-per-client). Try again later."
    return Refusal(429, "queue_full", text, "rate_limit_error", headers=_queued(wait, position))


def held_back(reason: str, seconds: float) -> Refusal:
    text = f"No request is taken for another {seconds:.0f} s: {reason}."
    return Refusal(429, "upstream_rate_limited", text, "rate_limit_error", headers=retry_after(seconds))


def queue_timeout(seconds: float, wait: float, position: int) -> Refusal:
    text = f"No slot came free within {seconds:g} s (--queue-timeout)."
    return Refusal(503, "queue_timeout", text, headers=_queued(wait, position))


def loading(reason: str) -> Refusal:
    return Refusal(503, "loading_model", f"No instance is ready yet: {reason}.", headers=retry_after(5))


def no_such_instance(reason: str) -> Refusal:
    return Refusal(404, "no_such_instance", f"{reason[:1].upper()}{reason[1:]}.", "invalid_request_error")


def refused(reason: str) -> Refusal:
    """An operator asked for what cannot be done now."""
    return Refusal(409, "refused", f"This cannot be done now: {reason}.", "invalid_request_error")


def no_instances(reason: str) -> Refusal:
    return Refusal(503, "no_instances", f"No instance can serve: {reason}", headers=retry_after(60))


def shutting_down() -> Refusal:
    text = "The server is shutting down."
    return Refusal(503, "shutting_down", text, headers=retry_after(5), close=True)


def upstream_failed(reason: str, *, sent: bool) -> Refusal:
    headers = {"x-should-retry": "false"} if sent else {}
    return Refusal(502, "upstream_failed", f"The engine failed: {reason}.", headers=headers)


def engine_answered(status: int, said: str) -> Refusal:
    """It said no to a request whose client was told 200 already, or answered without a stream."""
    if status < 400:
        return Refusal(502, "engine_answered", "The engine answered without a stream.")
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return Refusal(status, "engine_answered", said or f"The engine answered {status}.", kind)


def upstream_timeout(reason: str) -> Refusal:
    text = f"The engine was too slow: {reason}."
    return Refusal(504, "upstream_timeout", text, headers={"x-should-retry": "false"})


def loop_detected() -> Refusal:
    text = "This request has passed through this proxy before: an --upstream of it leads back here."
    return Refusal(508, "loop_detected", text, headers={"x-should-retry": "false"})


def crowded() -> Refusal:
    text = "Too many connections are open. Try again later."
    return Refusal(503, "too_many_connections", text, headers=retry_after(5), close=True)


def internal() -> Refusal:
    """A bug of ours; the log has it."""
    return Refusal(500, "internal_error", "The proxy failed. Its log says why.", close=True)
