"""What every request passes before it goes anywhere: the same rules for the proxy's own pages and for engines. Pure.

The raw target decides, as it came: nothing is decoded or normalised here, so proxy and engine cannot see two different
paths.
"""

import enum
import itertools
import secrets
from collections.abc import Callable

from slotproxy.instances.upstream import THIS_PROXY, VIA
from slotproxy.proxy import errors
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.headers import valid_request_id
from slotproxy.proxy.operator.paths import MODELS, OPEN_PATHS, is_about_models, is_own, needs_operator

KEPT_HOSTS, KEPT_HOST = 64, 256  # values of Host that are remembered, and the bytes of the longest that is
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Way(enum.Enum):
    """Where a request goes."""

    PREFLIGHT = "a browser asks whether a page may ask: answered at once"
    PAGE = "the proxy's own pages"
    ENGINE = "an engine"


PREFLIGHT, PAGE, ENGINE = Way  # looked up often, and an enum's class takes its time


class Gate:
    """The rules of one proxy."""

    def __init__(self, access: Access, max_body: int, only_upstreams: Callable[[], bool]) -> None:
        """`only_upstreams`: whether every model is somebody else's, so that they say themselves what they have."""
        self.stopping = False  # whoever comes for an engine is told so
        self.reconfigure(access, max_body)
        self._only_upstreams = only_upstreams
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def reconfigure(self, access: Access, max_body: int) -> None:
        """From the next request on by these."""
        self.access, self.max_body = access, max_body
        self.rules = object()  # stands for the rules of now, and no others
        self._hosts: set[bytes | None] = set()  # values of Host that were found right

    def stop(self) -> None:
        """From now on whoever comes for an engine is told that the proxy stops."""
        self.stopping = True
        self.rules = object()

    def request_id(self, head: RequestHead | None) -> str:
        """The client's own, if it may be used, else a new one."""
        if head is not None and b"x-request-id" in head.named:
            given = head.named[b"x-request-id"]
            if valid_request_id(given):
                return given.decode()
        return f"{self._prefix}-{next(self._numbers):x}"

    def way(self, head: RequestHead) -> Way:
        """Where the request goes; kept in `head.way` with `rules`, since heads come again.

        Raises Refusal for what nobody may hear of.
        """
        way = self._judged(head)
        if way is ENGINE and not is_about_models(head.path):
            head.way = self.rules, way
        return way

    def _judged(self, head: RequestHead) -> Way:
        method, access, named = head.method, self.access, head.named
        if method not in _METHODS:
            refusal = errors.method_not_allowed(", ".join(sorted(_METHODS)))
            refusal.close = method == "CONNECT"  # what follows may be meant for the tunnel that it asked for
            raise refusal
        if not head.target.startswith(b"/"):
            self._take_origin_form(head)
        path = head.path
        if b"expect" in named and head.http11 and named[b"expect"].lower() != b"100-continue":
            raise errors.unknown_expectation(named[b"expect"].decode("latin-1"))
        host = named.get(b"host")
        if host not in self._hosts:
            self._check_host(host, required=head.http11)
        if b"origin" in named:
            access.check_origin(named[b"origin"].decode("latin-1"), head.text(b"host") or "")
            if method == "OPTIONS" and b"access-control-request-method" in named:
                return PREFLIGHT
        if access.keys and path not in OPEN_PATHS:
            access.check_key(head.text(b"authorization"), head.text(b"x-api-key"), head.text(b"api-key"))
        if VIA in named and has_passed(head):
            raise errors.loop_detected()
        if is_own(path) and not self._is_theirs(method, path):
            if needs_operator(method, path):
                access.check_operator()
            return PAGE
        if self.stopping:
            raise errors.shutting_down()
        return ENGINE

    def _is_theirs(self, method: str, path: str) -> bool:
        """Whether the upstreams say it themselves. What is done to one model passes to them, too."""
        return is_about_models(path) and (path != MODELS or method in ("GET", "HEAD")) and self._only_upstreams()

    def _check_host(self, host: bytes | None, *, required: bool) -> None:
        """Raises Refusal. Clients name the same host every time."""
        self.access.check_host(None if host is None else host.decode("latin-1"), required=required)
        if host is not None and len(host) <= KEPT_HOST:
            if len(self._hosts) >= KEPT_HOSTS:
                self._hosts.clear()
            self._hosts.add(host)

    def _take_origin_form(self, head: RequestHead) -> None:
        """The target as an engine gets it. Raises Refusal for what is no path (RFC 9112 section 3.2)."""
        target = head.target
        if target == b"*" and head.method == "OPTIONS":
            return
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            raise errors.malformed("The request target is not a path.")
        end = min((place for place in map(rest.find, (b"/", b"?", b"#")) if place >= 0), default=len(rest))
        authority, path = rest[:end], rest[end:]
        if authority[:1] in (b"", b":") or b"@" in authority or path.startswith(b"#"):
            raise errors.malformed("The request target is not a path.")
        self.access.check_host(authority.decode("latin-1"), required=True)
        head.take_target(path if path.startswith(b"/") else b"/" + path)

    def preflight(self, head: RequestHead) -> dict[str, str]:
        """The fields that answer a preflight request. Raises Refusal if its page may not ask."""
        return self.access.preflight_fields(head.text(b"origin"), head.text(b"access-control-request-headers"))


def has_passed(head: RequestHead) -> bool:
    """Whether the request has been here before: sent to an upstream, which sent it back, be it by way of others."""
    passed = (line.partition(b":")[2] for name, line in head.special if name == VIA)
    return any(name.strip() == THIS_PROXY for line in passed for name in line.split(b","))
