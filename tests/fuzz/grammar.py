"""Random bytes for the client's side of a proxy: mostly requests, legal and odd ones, and then a few bytes changed."""

from collections.abc import Callable, Sequence
from random import Random

METHODS = (*(b"GET",) * 4, *(b"POST",) * 4, b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
ODD_METHODS = (b"TRACE", b"CONNECT", b"get", b"SOURCE", b"M-SEARCH", b"QUERY", b"PRI", b"G\xc3T", b"", b"X" * 40)
TARGETS = (
    b"/a",
    b"/",
    b"/a?b=%2f",
    b"//x",
    b"/a/../b",
    b"http://127.0.0.1/x",
    b"http://localhost?y",
    b"/" + b"l" * 90,
)
ODD_TARGETS = (
    b"*",
    b"a",
    b"http://evil.example/",
    b"127.0.0.1:80",
    b"/\xc3\xa9",
    b"/a b",
    b"/a#f",
    b"http://u@h/",
    b"/\x7f",
    b"",
)
ODD_VERSIONS = (
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1.10",
    b"http/1.1",
    b"RTSP/1.0",
    b"ICE/1.0",
    b"HTTP/1.1 ",
    b"",
)
HOSTS = (b"127.0.0.1", b"localhost:8080", b"[::1]", b"127.0.0.1:", b"localhost.")
ODD_HOSTS = (b"", b"evil.example", b"a b", b"127.0.0.1, b", b"[::1", b"u@127.0.0.1", b"127.0.0.1:99999", b"127.0.0.1/x")
FIELDS = (
    *(
        b"Accept: */*",
        b"X-A: 1",
        b"x-a:2",
        b"Cookie: a=b; c",
        b"X-Empty:",
        b"X-Tab:\ta\t",
        b"X-Obs: \xff\xe9",
        b"A!#$%&'*+-.^_`|~: 1",
    ),
    *(
        b"Connection: keep-alive",
        b"Connection: X-A, close",
        b"Connection: upgrade\r\nUpgrade: h2c",
        b"Upgrade: websocket",
    ),
    *(
        b"Keep-Alive: 5",
        b"TE: trailers",
        b"Trailer: X-T",
        b"Expect: 100-continue",
        b"Accept-Encoding: gzip",
        b"Via: 1.1 x",
    ),
    *(b"Authorization: Bearer k", b"X-Long: " + b"v" * 300, b"Content-Encoding: gzip", b"X-Request-Id: abc"),
)
ODD_FIELDS = (
    *(
        b"No colon",
        b"X Y: 1",
        b"X : 1",
        b": 1",
        b" X: 1",
        b"X: 1\r\n folded",
        b"X: a\0b",
        b"X: a\rb",
        b"X: a\nY: b",
        b"X\xe9: 1",
    ),
    *(
        b"Expect: 200-ok",
        b"Connection: close, close",
        b"Connection: Content-Length",
        b"Connection: Host",
        b"X: \x01",
        b"X: \x7f",
    ),
    *(
        b"X: " + b"v" * 17_000,
        b"Proxy-Connection: close",
        b"Content-Length:",
        b"Transfer-Encoding:",
        b"\0: 1",
        b"(X): 1",
    ),
)
ODD_CODINGS = (
    *(
        b"gzip, chunked",
        b"cow, chunked",
        b"chunked, chunked",
        b"Chunked",
        b"chunked\t",
        b"\x0bchunked",
        b"identity",
        b"xchunked",
    ),
    *(b"chunked;q=1", b'"chunked"', b"chunked, gzip", b",chunked", b"chunked,"),
)
ODD_LENGTHS = (
    b"+2",
    b"-2",
    b"0x2",
    b"2, 2",
    b"2,3",
    b" 2",
    b"2 ",
    b"002",
    b"2 2",
    b"99999999999999999999",
    b"",
    b"1e1",
    b"\xb2",
)
ODD_CHUNK_LINES = (
    *(
        b"5; a=b",
        b"5 ;a=b",
        b"5;a",
        b'5;a="b\\"c"',
        b"5 ",
        b" 5",
        b"0x5",
        b"+5",
        b"-5",
        b"05",
        b"0000000000000005",
        b"5;\0",
        b"5;\n",
    ),
    *(b"5;a=\x01", b"g", b"", b"fffffffffffffffff", b"5\x0b", b"5;" + b"e" * 3000, b"5;a=b;c"),
)
ODD_CHUNK_ENDS = (b"\n", b"", b"\r", b"x\r\n", b"\r\n\r\n")
TRAILERS = (
    b"",
    b"",
    b"X-T: 1\r\n",
    b"Host: evil.example\r\nX-A: 3\r\n",
    b"Content-Length: 5\r\n",
    b"bad trailer\r\n",
    b"X: \0\r\n",
)
ODD_ENDS = (b"\n", b"\r", b"\r\r\n", b" \r\n")
BYTES = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\xff",
    b"0",
    b"1",
    b"f",
    b"\x0b",
    b"%",
    b"/",
    b"\x85",
)


def connection(dice: Random) -> bytes:
    """What one client sends before it has nothing more to say."""
    data = b"".join(request(dice) for _ in range(dice.choice((1, 1, 1, 2, 3))))
    for _ in range(dice.choice((0, 0, 0, 0, 1, 1, 2, 4))):
        data = mutated(dice, data)
    return data


def request(dice: Random) -> bytes:
    end = _rarely(dice, b"\r\n", ODD_ENDS, 0.02)
    version = _rarely(dice, b"HTTP/1.1", ODD_VERSIONS, 0.12)
    method = _rarely(dice, dice.choice(METHODS), ODD_METHODS, 0.05)
    line = method + b" " + _rarely(dice, dice.choice(TARGETS), ODD_TARGETS, 0.08) + b" " + version
    hosts = [_rarely(dice, dice.choice(HOSTS), ODD_HOSTS, 0.06) for _ in range(dice.choices((1, 0, 2), (40, 1, 1))[0])]
    lines = [b"Host: " + host for host in hosts]
    lines += [_rarely(dice, dice.choice(FIELDS), ODD_FIELDS, 0.06) for _ in range(dice.randrange(5))]
    framing, body = _body(dice, method)
    lines += framing
    dice.shuffle(lines)
    return b"\r\n" * (dice.random() < 0.03) + end.join([line, *lines]) + end + b"\r\n" + body


def _body(dice: Random, method: bytes) -> tuple[list[bytes], bytes]:
    content = dice.choice(
        (b"", b"{}", b"hello", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"y" * 3000)
    )
    kind = dice.random() - 0.4 * (method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
    if kind < 0.1:
        return [], b""
    if kind < 0.5:
        return [b"Content-Length: " + _rarely(dice, b"%d" % len(content), ODD_LENGTHS, 0.1)], content
    coding = b"Transfer-Encoding: " + _rarely(dice, b"chunked", ODD_CODINGS, 0.12)
    both = [b"Content-Length: %d" % len(content)] if dice.random() < 0.03 else []
    return [coding, *both], _chunked(dice, content)


def _chunked(dice: Random, content: bytes) -> bytes:
    out = b""
    while content:
        piece, content = content[: (size := dice.choice((1, 5, 5, 100, 5000)))], content[size:]
        line = dice.choice(ODD_CHUNK_LINES) if len(piece) == 5 and dice.random() < 0.15 else b"%x" % len(piece)
        out += line + b"\r\n" + piece + _rarely(dice, b"\r\n", ODD_CHUNK_ENDS, 0.02)
    return (
        out
        + _rarely(dice, b"0", (b"00", b"0;e", b"0 ", b"000000000000000000"), 0.05)
        + b"\r\n"
        + dice.choice(TRAILERS)
        + b"\r\n"
    )


def _rarely(dice: Random, usual: bytes, odd: Sequence[bytes], chance: float) -> bytes:
    return dice.choice(odd) if dice.random() < chance else usual


def mutated(dice: Random, data: bytes) -> bytes:
    """`data` with one small change at a place by chance."""
    if not data:
        return data
    place = dice.randrange(len(data))
    return dice.choice(_MUTATIONS)(dice, data, place)


def _replace(dice: Random, data: bytes, place: int) -> bytes:
    return data[:place] + dice.choice(BYTES) + data[place + 1 :]


def _insert(dice: Random, data: bytes, place: int) -> bytes:
    return data[:place] + dice.choice(BYTES) + data[place:]


def _delete(dice: Random, data: bytes, place: int) -> bytes:
    return data[:place] + data[place + dice.choice((1, 1, 2, 10)) :]


def _flip(dice: Random, data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]


def _repeat(dice: Random, data: bytes, place: int) -> bytes:
    end = place + dice.choice((1, 3, 20))
    return data[:end] + data[place:]


_MUTATIONS: tuple[Callable[[Random, bytes, int], bytes], ...] = (_replace, _insert, _delete, _flip, _repeat)
