"""The body of a request: valid where a JSON object is due. Pure.

An engine's own JSON parser is laxer than its clients think (NaN, broken UTF-8), and a crash or a hang there costs a
slot; what can be refused here is refused here.
"""

import json
import re

import msgspec

from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.errors import bad_request

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


def checked(head: RequestHead, body: bytes) -> Wanted:
    """What the proxy wants to know of the body of such a request. Raises Refusal if a JSON object was due and it is
    none.
    """
    if b"content-encoding" in head.named:
        return NOTHING  # compressed: only the engine can tell
    content_type = head.named.get(b"content-type", b"").lower()
    if content_type.startswith(b"multipart/"):
        return NOTHING
    if head.path in _JSON_PATHS:
        return _object(body)
    return _some_json(body) if content_type.startswith(b"application/json") else NOTHING


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
