"""Requests of every legal form, as values: their bytes, and what has to become of them."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from tests.strict_engine import Seen, echo

NAMES = ("X-A", "x-b", "Accept", "Cookie", "Authorization", "traceparent", "X_Under", "x!#$%&'*+-.^`|~9")
VALUES = ("", "1", "a, b", "a\tb", '"quoted; string"', "\xff\xfe obs-text", "close", "chunked", "0\t", "x" * 5000)
TARGETS = ("/a", "/a?b=c&d=%2F..%2f", "/v1/../b", "//double", "/%00", "/chunked;x=1", "/" + "p" * 3000)
EXTENSIONS = ("", ";a", ";a=b", ';a="b c"', ";" + "e" * 60)
OURS = frozenset({"host", "content-length", "x-request-id", "x-slotproxy-via"})  # what an engine gets from the proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One request. `chunks`: sizes in which the body goes; None: it goes with Content-Length, or there is none."""

    number: int
    method: str = "GET"
    target: str = "/a"
    authority: str | None = None  # of a target in absolute form
    version: str = "1.1"
    host: str = "Host: 127.0.0.1"
    fields: tuple[tuple[str, str], ...] = ()  # what the engine has to get
    for_us: tuple[str, ...] = ()  # field lines that end at the proxy
    body: bytes | None = None
    chunks: tuple[int, ...] | None = None
    extensions: tuple[str, ...] = ("",)
    trailers: tuple[str, ...] = ()
    status: int = 200
    empty_line: bool = False  # before the request, which a server has to overlook
    pad: str = " "  # between a field's colon and its value, and after the value

    @property
    def wire(self) -> bytes:
        target = self.target if self.authority is None else f"http://{self.authority}{self.target}"
        given = (f"{name}:{self.pad}{value}{self.pad.strip(' ')}" for name, value in self.fields)
        lines = [f"{self.method} {target} HTTP/{self.version}", self.host, f"X-Request-Id: {self.number}"]
        lines += [*given, *self.for_us, *self._framing()]
        head = ("\r\n" * self.empty_line + "\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return head + (self._chunked() if self.chunks is not None else self.body or b"")

    def _framing(self) -> list[str]:
        if self.chunks is not None:
            return ["Transfer-Encoding: chunked"]
        return [] if self.body is None else [f"Content-Length: {len(self.body)}"]

    def _chunked(self) -> bytes:
        body, out = self.body or b"", b""
        for number, size in enumerate((*(self.chunks or ()), len(body))):
            piece, body = body[:size], body[size:]
            extension = self.extensions[number % len(self.extensions)].encode("latin-1")
            out += b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) if piece else b""
        return out + b"0\r\n" + "".join(f"{line}\r\n" for line in self.trailers).encode("latin-1") + b"\r\n"

    @property
    def is_for_the_engine(self) -> bool:
        return self.status == 200 and self.target not in OWN_PAGES

    @property
    def start_line(self) -> bytes:
        """As the engine has to get it."""
        return f"{self.method} {self.target} HTTP/1.1".encode("latin-1")

    @property
    def answer(self) -> bytes:
        """The body of the engine's answer."""
        return echo(self.start_line, self.body or b"")

    def check(self, seen: Seen) -> None:
        """Fails unless `seen` is this request, whole, and nothing else."""
        line, *lines = seen.head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = [(name, value.strip(" \t")) for name, _, value in (one.partition(":") for one in lines)]
        assert line.encode("latin-1") == self.start_line
        passed_on = [pair for pair in pairs if pair[0].lower() not in OURS]
        assert sorted(passed_on, key=_name) == sorted(
            ((name, value.strip(" \t")) for name, value in self.fields), key=_name
        )
        assert [value for name, value in pairs if name.lower() == "x-request-id"] == [str(self.number)]
        assert seen.body == (self.body or b"")


def _name(field: tuple[str, str]) -> str:
    """By it the order of fields is compared: only among those of one name does it mean anything."""
    return field[0].lower()


OWN_PAGES = {"/health": 200, "/ready": 200, "/slotproxy/nothing": 404}
UPGRADES = (
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ("Connection: upgrade", "Upgrade: websocket"),
    ("Upgrade: foo/2", "Connection: keep-alive, Upgrade"),
)
NAMED = (("Connection: X-Mine, keep-alive", "X-Mine: 1"), ("Keep-Alive: timeout=5",), ("TE: trailers",))
TRAILERS = (
    *("X-Injected: by-the-trailer", "Authorization: Bearer forged", "Host: evil.example"),
    *("Connection: close", "X-A: 9"),
)
HOSTS = ("Host: 127.0.0.1", "hOST:localhost", "Host: [::1]:80")
BODIES = (b"", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"x" * 9000)

fields = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5).map(tuple)
bodies = st.one_of(st.binary(max_size=40), st.sampled_from(BODIES))
dressings: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "empty_line": st.booleans(),
        "pad": st.sampled_from((" ", "", "\t", " \t ")),
        "host": st.sampled_from(HOSTS),
    }
)
for_the_proxy = st.one_of(st.just(()), st.sampled_from(UPGRADES), st.sampled_from(NAMED))
expectations = st.sampled_from(((), (), (), ("Expect: 100-continue",), ("expect: 100-Continue",)))


@st.composite
def messages(draw: st.DrawFn, number: int, *, last: bool) -> Message:
    """Any legal request after which the connection goes on; with `last` one that may end it."""
    if last and draw(st.booleans()):
        return Message(number=number, for_us=("Connection: close",), **draw(dressings))
    shape = draw(st.sampled_from((_own, _http10, _bare, _with_length, _chunked, _chunked)))
    return Message(number=number, **draw(dressings), **shape(draw))


def _own(draw: st.DrawFn) -> dict[str, Any]:
    target, status = draw(st.sampled_from(sorted(OWN_PAGES.items())))
    return {"target": target, "status": status, "for_us": draw(for_the_proxy)}


def _http10(draw: st.DrawFn) -> dict[str, Any]:
    whole = {"method": "POST", "body": draw(bodies), "fields": draw(fields)}
    return {"version": "1.0", "for_us": ("Connection: keep-alive",), **whole}


def _bare(draw: st.DrawFn) -> dict[str, Any]:
    method = draw(st.sampled_from(("GET", "DELETE", "OPTIONS", "HEAD")))
    return {"method": method, "for_us": draw(for_the_proxy), **_common(draw)}


def _with_length(draw: st.DrawFn) -> dict[str, Any]:
    for_us = (*draw(for_the_proxy), *draw(expectations))
    method = draw(st.sampled_from(("POST", "PUT", "PATCH")))
    return {"method": method, "body": draw(bodies), "for_us": for_us, **_common(draw)}


def _chunked(draw: st.DrawFn) -> dict[str, Any]:
    coding = {
        "chunks": tuple(draw(st.lists(st.integers(1, 20), max_size=4))),
        "extensions": tuple(draw(st.lists(st.sampled_from(EXTENSIONS), min_size=1, max_size=3))),
        "trailers": tuple(draw(st.lists(st.sampled_from(TRAILERS), max_size=3))),
    }
    return _with_length(draw) | coding


def _common(draw: st.DrawFn) -> dict[str, Any]:
    authority = draw(st.sampled_from((None, None, "127.0.0.1", "localhost:80")))
    return {"target": draw(st.sampled_from(TARGETS)), "authority": authority, "fields": draw(fields)}


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Message, ...]:
    """Clients write the same head again and again, so some of these do."""
    count = draw(st.integers(2, 6))
    found: list[Message] = []
    for number in range(count):
        again = found and draw(st.integers(0, 2)) == 0
        found.append(_like(draw, found[-1]) if again else draw(messages(number, last=number == count - 1)))
    return tuple(found)


def _like(draw: st.DrawFn, before: Message) -> Message:
    """With the same head, but for the length of its body."""
    return before if before.body is None else replace(before, body=draw(bodies))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at these places as far as it has them."""
    edges = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]
