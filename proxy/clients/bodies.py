"""The request body: bounded, with a deadline, and valid where a JSON object is due.

An engine's own JSON parser is laxer than its clients think (NaN, broken UTF-8), and a crash or a hang there costs a
slot; what can be refused here is refused here.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping

import msgspec
from aiohttp import StreamReader, hdrs, web

from slotproxy.proxy.errors import Refusal, bad_request, body_timeout, malformed, too_large
from slotproxy.proxy.clients.front import ClientConnection

SILENCE = 30.0  # seconds between two pieces of a body
LONGEST = 300.0  # seconds for a whole body
MAX_DIGITS = 400  # no double has more; longer numbers only cost engines time

_JSON_PATHS = frozenset(
    f"{prefix}/{name}"
    for prefix in ("/v1", "")
    for name in (
        "chat/completions",
        "completions",
        "responses",
        "messages",
        "messages/count_tokens",
        "embeddings",
        "rerank",
    )
)
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_STRIDE = 100
_SEVERAL_DIGITS = re.compile(rb"[0-9]{%d,}" % (MAX_DIGITS // _STRIDE))


class Wanted(msgspec.Struct):
    """The fields of a request that the proxy looks at, unparsed: what they may hold is the engine's business."""

    stream: msgspec.Raw = msgspec.Raw(b"")

    @property
    def streaming(self) -> bool:
        return bytes(self.stream) == b"true"


NOTHING = Wanted()
_decoder = msgspec.json.Decoder(Wanted)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def read(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, at most `limit` bytes. Raises Refusal."""
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    payload = request.content
    expected = request.headers.get(hdrs.EXPECT)
    if expected is not None:
        _answer_expectation(request, expected, payload)
    if payload.is_eof():
        body = payload.read_nowait()
        if len(body) > limit:
            raise too_large(limit)
        return body
    connection = request.protocol
    assert isinstance(connection, ClientConnection)
    connection.body = payload
    try:
        async with asyncio.timeout(LONGEST):
            return await _collect(payload, limit)
    except TimeoutError:
        raise body_timeout(LONGEST) from None
    except web.RequestPayloadError:
        raise malformed("The request body ended early.") from None
    finally:
        connection.body = None


async def _collect(payload: StreamReader, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while not payload.at_eof():
        try:
            async with asyncio.timeout(SILENCE):
                piece = await payload.readany()
        except TimeoutError:
            raise body_timeout(SILENCE) from None
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _answer_expectation(request: web.BaseRequest, expected: str, payload: StreamReader) -> None:
    if expected.strip().lower() != "100-continue":
        raise Refusal(417, "expectation_failed", f"The expectation {expected[:40]!r} is not known.", close=True)
    transport = request.transport
    if payload.is_eof() or transport is None or transport.is_closing():
        return
    if request.version.minor >= 1:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def checker(path: str, headers: Mapping[str, str]) -> Callable[[bytes], Wanted]:
    """Tells what the proxy wants to know of the body of such a request. It raises Refusal if a JSON object was due and
    the body is none.
    """
    if hdrs.CONTENT_ENCODING in headers:
        return unchecked  # compressed: only the engine can tell
    content_type = headers.get(hdrs.CONTENT_TYPE, "").lower()
    if content_type.startswith("multipart/"):
        return unchecked
    if path in _JSON_PATHS:
        return _object
    return _some_json if content_type.startswith("application/json") else unchecked


def unchecked(body: bytes) -> Wanted:
    """What the proxy wants to know of a body it does not look into."""
    return NOTHING


def _some_json(body: bytes) -> Wanted:
    _valid_text(body)
    return NOTHING


def renamed(body: bytes, model: str) -> bytes:
    """`body` with `model` as the model it names, everything else as it was; unchanged where it is no JSON object."""
    try:
        members = _members.decode(body)
    except msgspec.DecodeError:
        return body
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(members)


def _object(body: bytes) -> Wanted:
    _valid_text(body)
    try:
        wanted = _decoder.decode(body)
    except msgspec.ValidationError:
        raise bad_request("invalid_json", "The request body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise bad_request("invalid_json", f"The request body is not valid JSON: {error}.") from None
    if body.count(b'"stream"') > 1:
        _refuse_repeated(body)
    if len(body) > MAX_DIGITS and _has_long_run(body):
        _refuse_long_numbers(body)
    return wanted


def _has_long_run(body: bytes) -> bool:
    """Whether more than MAX_DIGITS digits follow each other. Looks at every hundredth byte first: a run that long shows
    in four of them, and a search through every byte of a large prompt costs more than sending it on.
    """
    for match in _SEVERAL_DIGITS.finditer(body[::_STRIDE]):
        near = max(0, match.start() - 1) * _STRIDE, (match.end() + 1) * _STRIDE
        if _LONG_NUMBER.search(body, *near):
            return True
    return False


def _valid_text(body: bytes) -> None:
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise bad_request("invalid_json", f"The request body is not UTF-8 (byte {error.start}).") from None


def _refuse_repeated(body: bytes) -> None:
    """A field we read may stand once: proxy and engine could disagree about which of two counts."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if sum(name == "stream" for name, _ in pairs) > 1:
            raise bad_request("invalid_json", "The field 'stream' is given twice.", param="stream")
        return dict(pairs)

    json.loads(body, object_pairs_hook=once, parse_int=float)


def _refuse_long_numbers(body: bytes) -> None:
    """Digits inside a string are fine (hex, base64); the same run as a number is not."""

    def number(text: str) -> float:
        if len(text) > MAX_DIGITS:
            raise bad_request("invalid_json", f"A number of the request body has more than {MAX_DIGITS} digits.")
        return 0.0

    json.loads(body, parse_int=number, parse_float=number)
