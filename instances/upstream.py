"""Where the requests of one running engine go, and the words of HTTP that both sides share. Pure values."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from slotproxy.instances.slotless import NO_REQUESTS, Slotless

Field = tuple[bytes, bytes]
"""Name and value of a header field."""

VIA = b"x-slotproxy-via"
"""The field that names the proxies a request has passed through, on its way to servers that run elsewhere."""

THIS_PROXY = secrets.token_hex(8).encode()
"""The name of this process there: a request that has it already went round in a loop."""

REFUSALS = frozenset({402, 429, 503, 529})
"""Statuses by which a server says: not now, ask again, or ask elsewhere."""


Observer = Callable[[int | None, tuple[Field, ...], bytes], None]
"""Told of an answer: status, fields, and the body of a refusal, else nothing. Without a status the body is the error
object of an event within a stream.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Upstream:
    """One engine that answers HTTP. Compared by identity: an instance that restarts is a new Upstream with the same
    id.
    """

    instance: str  # "0", "1", ... for what we start; "u0", "u1", ... for --upstream
    host: str
    port: int
    slots: int = 1
    overflow: bool = False  # requests go there only when no other upstream has a free slot
    tls: bool = False
    base_path: str = ""  # put before every path, no trailing slash
    replaces_v1: bool = False  # base_path stands for the /v1 with which paths begin, as of an API at /api/paas/v4
    keepalive: float = 4.0  # seconds an idle connection may be used again; 0: one request per connection
    slotless: Slotless = NO_REQUESTS  # what it answers beside its slots
    drop_headers: frozenset[bytes] = frozenset()  # lower case; never sent to this engine
    # sent instead of the client's headers of these names; a key among them has no place in a log
    extra_headers: tuple[Field, ...] = field(default=(), repr=False)
    default_headers: tuple[Field, ...] = ()  # sent where the client sends none of these names
    via: bytes = b""  # the name of this proxy, added to `VIA` of every request there; empty: it gets no such field
    observed: bool = False  # its owner wants to hear of its answers: a server whose rate limits we do not know
    model: str | None = None  # put into every JSON body that names a model; None: the client's stays
    write_stall: float = 0.0  # seconds the engine tolerates an unread stream before it drops it; 0: any

    def target(self, asked: bytes) -> bytes:
        """Where a request for `asked`, a path with its query, goes there."""
        if self.replaces_v1 and asked.startswith(b"/v1/"):
            asked = asked.removeprefix(b"/v1")
        return self.base_path.encode() + asked

    @property
    def authority(self) -> str:
        """Value of the Host header: without the port where it is the scheme's own, as clients of big sites send it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"
