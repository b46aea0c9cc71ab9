"""The head of a client's request: read by httptools, held to limits of our own. Pure.

A `HeadReader` gives httptools the bytes of exactly one head, up to the empty line and no further, and has a parser for
each head of its own. So nothing of one message, a trailer least of all, can show up in the next, and the body and what
follows it are never the parser's to judge. What httptools leaves out is checked here: the name of the protocol, the
size of lines and heads, the number of fields, and which framing of a body is understood (RFC 9112 section 6.3).
"""

import httptools

from slotproxy.proxy.errors import Refusal, head_too_large, malformed, not_implemented
from slotproxy.proxy.headers import Field

MAX_LINE = 16 * 1024  # bytes of a request line, and of one header field
MAX_HEAD = 64 * 1024  # bytes of a head, its empty line and blank lines before it included
MAX_FIELDS = 100
_END = b"\r\n\r\n"
_KEPT_NAMES, _KEPT_NAME = 1024, 64  # names whose meaning is remembered, and the bytes of the longest that is
_VERSIONS = {"1.1": True, "1.0": False}
_LOOKED_AT = frozenset(
    b"host origin authorization x-api-key x-request-id connection content-length transfer-encoding content-type "
    b"content-encoding expect access-control-request-method access-control-request-headers".split()
)


class _Names(dict[bytes, bytes]):
    """The lower case of each name that is looked at here, by how clients write it; empty: it only passes."""

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        known = lower if lower in _LOOKED_AT else b""
        if len(name) <= _KEPT_NAME:
            if len(self) >= _KEPT_NAMES:
                self.clear()
            self[name] = known
        return known


_names = _Names()


class RequestHead:
    """One request's start line and fields, checked as far as HTTP goes."""

    __slots__ = ("chunked", "fields", "http11", "keep_alive", "length", "method", "named", "path", "target")

    def __init__(
        self, method: str, target: bytes, fields: list[Field], named: dict[bytes, bytes], *, http11: bool, keep: bool
    ) -> None:
        self.method = method
        self.take_target(target)
        self.fields = fields  # all of them, as they came
        self.named = named  # the values of those that are looked at, by lower-case names; of several the first
        self.http11 = http11
        self.keep_alive = keep  # the client wants to go on with this connection
        self.length = 0  # bytes of the body, where it is not chunked
        self.chunked = False

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.path}, {len(self.fields)} fields>"  # no value: some are credentials

    def take_target(self, target: bytes) -> None:
        """`target` is the request's, from now on."""
        self.target = target
        self.path = target.partition(b"?")[0].decode("latin-1")

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length > 0

    def text(self, name: bytes) -> str | None:
        """The value of a field that is looked at."""
        value = self.named.get(name)
        return None if value is None else value.decode("latin-1")


class HeadReader:
    """Takes the bytes of a connection until a head is whole, once for each request."""

    __slots__ = ("_fields", "_keep", "_parser", "_seen", "_size", "_start", "_url", "_whole", "head")

    def __init__(self) -> None:
        self.head: RequestHead | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._seen = self._start = b""

    @property
    def begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._parser is not None

    def read(self, data: bytes) -> bytes | None:
        """The bytes behind the head once it is whole, which then is `head`; None: more is needed.

        Raises Refusal; nothing can be read after it.
        """
        parser = self._parser
        if parser is None:
            parser = self._begin()
        while True:
            seen = self._seen  # the last bytes of before: the end of a head may have been cut
            end = (seen + data if seen else data).find(_END)
            if end < 0:
                self._feed(parser, data)
                self._seen = (seen + data)[-len(_END) + 1 :]
                return None
            end += len(_END) - len(seen)
            self._feed(parser, data if end == len(data) else data[:end])
            if self._whole:
                self.head = self._made(parser)
                self._parser = None
                return data[end:]
            self._seen, data = b"", data[end:]  # only blank lines so far

    def close(self) -> None:
        """No head will come."""
        self._parser = self.head = None

    def _begin(self) -> httptools.HttpRequestParser:
        parser = self._parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_transfer_encoding=True)  # `_made` is the stricter judge of it
        self._url = self._seen = self._start = b""
        self._fields: list[Field] = []
        self._size = 0
        self._whole = False
        return parser

    def _feed(self, parser: httptools.HttpRequestParser, data: bytes) -> None:
        self._size += len(data)
        if not self._start.endswith(b"\n"):
            self._look_at_protocol(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # an offer, which is not taken: the request is one like others
        except httptools.HttpParserCallbackError as error:
            raise (error.__context__ if isinstance(error.__context__, Refusal) else malformed(_said(error))) from None
        except httptools.HttpParserError as error:
            raise malformed(_said(error)) from None
        if self._size > MAX_HEAD:
            raise head_too_large(f"The head of the request is larger than {MAX_HEAD} bytes.")

    def _look_at_protocol(self, data: bytes) -> None:
        """httptools takes RTSP and ICE for HTTP."""
        line, newline, _ = (self._start + data).lstrip(b"\r\n").partition(b"\n")
        self._start = line[:MAX_LINE] + newline
        if newline and b" HTTP/" not in line:
            raise malformed("The request is not valid HTTP: its first line names no version of HTTP.")

    def _made(self, parser: httptools.HttpRequestParser) -> RequestHead:
        http11 = _VERSIONS.get(parser.get_http_version())
        if http11 is None:
            raise malformed("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        named: dict[bytes, bytes] = {}
        for name, value in self._fields:
            known = _names[name]
            if known:
                if known in named and known in _ONCE:
                    raise malformed(f"The header field {known.decode()} is there twice.")
                named.setdefault(known, value.strip(b" \t"))
        head = RequestHead(
            parser.get_method().decode(), self._url, self._fields, named, http11=http11, keep=self._keep
        )
        length, coding = named.get(b"content-length"), named.get(b"transfer-encoding")
        if coding is not None:
            _check_coding(coding, length, http11=http11)
            head.chunked = True
        elif length is not None:
            head.length = int(length)  # httptools lets only digits pass
        return head

    # httptools callbacks

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > MAX_LINE:
            raise head_too_large(f"The request line is longer than {MAX_LINE} bytes.", status=414)

    def on_header(self, name: bytes, value: bytes) -> None:
        fields = self._fields
        fields.append((name, value))
        if len(name) + len(value) > MAX_LINE:
            raise head_too_large(f"A header field is longer than {MAX_LINE} bytes.")
        if len(fields) > MAX_FIELDS:
            raise head_too_large(f"The request has more than {MAX_FIELDS} header fields.")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._keep = self._parser.should_keep_alive()  # once a message is over, it tells of the next
        self._whole = True


_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding"})


def _check_coding(coding: bytes, length: bytes | None, *, http11: bool) -> None:
    """Raises Refusal unless `coding` is the one framing that proxy and engine cannot read in two ways."""
    if length is not None or not http11:
        raise malformed("The framing of the request is ambiguous.")
    if coding.lower() != b"chunked":
        last = coding.lower().rpartition(b",")[2].strip(b" \t")
        if last == b"chunked":
            raise not_implemented("Of transfer codings only chunked is understood here.")
        raise malformed("The request has a transfer coding that is not chunked.")


def _said(error: Exception) -> str:
    """What httptools says, in a sentence that repeats nothing of what the client sent."""
    return f"The request is not valid HTTP: {str(error)[:200] or 'unreadable'}."
