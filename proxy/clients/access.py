"""Who may ask: API keys, Host names, browser origins. Pure.

A server on loopback without keys is open to every page its user's browser shows, by two ways this module closes: a
page may post to 127.0.0.1 (its Origin tells), and a name under an attacker's control may be made to mean 127.0.0.1
(its Host tells).
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial

from slotproxy.proxy.errors import Refusal, bad_request, forbidden, malformed, unauthorized
from slotproxy.proxy.headers import host_name, valid_host

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_WEB_ORIGIN = re.compile(r"https?://([^/]*)", re.IGNORECASE)


def is_local_name(name: str) -> bool:
    """Whether `name` (lower case) cannot be a name that somebody else controls: an address, or the machine itself."""
    if name in ("", "localhost") or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        ipaddress.ip_address(name.strip("[]").split("%")[0])
    except ValueError:
        return "." not in name  # a single label is resolved on this network only
    return True


def is_loopback_name(name: str) -> bool:
    """Whether `name` (lower case) means this machine itself on every machine: a page from there is the user's own."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What was configured. `loopback`: clients are on this machine only."""

    keys: tuple[str, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] = ()  # by what name each of the keys is known
    cors_origins: tuple[str, ...] = ()
    loopback: bool = True
    name: str = ""  # --host, if it is a name
    _digests: tuple[bytes, ...] = field(init=False, repr=False, compare=False)  # of the keys

    def __post_init__(self) -> None:
        object.__setattr__(self, "_digests", tuple(map(_digest, self.keys)))
        if not self.labels:
            object.__setattr__(self, "labels", tuple(f"key-{number + 1}" for number in range(len(self.keys))))
        assert len(self.labels) == len(self.keys)

    def check_host(self, host: str | None, *, required: bool) -> None:
        """Raises Refusal unless the Host field is valid and means us; None: there is none."""
        if host is None:
            if required:
                raise malformed("There must be exactly one Host header.")
            return
        trouble = _host_trouble(host, self.name.lower(), self.loopback and not self.keys)
        if trouble is not None:
            raise trouble()

    def check_origin(self, origin: str | None, host: str) -> None:
        """Raises Refusal if a web page that was not allowed makes the request."""
        if origin is None or self.keys or self.allows(origin) or not _is_foreign(origin, host):
            return
        raise forbidden(
            "origin_not_allowed", f"Pages of {origin[:100]!r} are not allowed here (--cors-origin allows them)."
        )

    def check_key(self, authorization: str | None, *api_keys: str | None) -> None:
        """Raises Refusal unless one of the keys was sent in one of the fields, or none is configured. A field that says
        something else beside it does no harm: SDKs send the credentials they have for other servers, too.
        """
        if not self.keys:
            return
        if self._key(authorization, api_keys) is None:
            raise unauthorized()

    def principal(self, peer: str, authorization: str | None, *api_keys: str | None) -> str:
        """By whom a request is made that `check_key` let in: the label of its key, without keys `peer`, its address."""
        number = self._key(authorization, api_keys) if self.keys else None
        return peer if number is None else self.labels[number]

    def _key(self, authorization: str | None, api_keys: Iterable[str | None]) -> int | None:
        """The place of the first of the keys that was sent; as long takes any other."""
        bearer = _BEARER.fullmatch(authorization.strip()) if authorization else None
        found = None
        for given in (bearer.group(1) if bearer else None, *api_keys):
            number = None if given is None else _place(given, self._digests)
            found = number if found is None else found
        return found

    def check_operator(self) -> None:
        """Raises Refusal unless whoever asks may change what runs here: whoever has a key, or is on this machine."""
        if not (self.keys or self.loopback):
            text = "Changes and logs need a key on a server that others can reach: start it with --api-key-file."
            raise forbidden("key_needed", text)

    def allows(self, origin: str) -> bool:
        return "*" in self.cors_origins or origin in self.cors_origins

    def cors_fields(self, origin: str | None) -> bytes:
        """Header lines that let a page of `origin` read the answer."""
        if origin is None or not self.allows(origin) or not origin.isprintable():
            return b""
        return (
            b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\nAccess-Control-Expose-Headers: *\r\n" % origin.encode()
        )

    def preflight_fields(self, origin: str | None, wanted: str | None) -> dict[str, str]:
        """Headers of the answer to a preflight request. Raises Refusal if `origin` may not ask."""
        if origin is None or not self.allows(origin):
            raise forbidden("origin_not_allowed", "This origin is not allowed here (--cors-origin allows it).")
        if wanted is not None and not wanted.isprintable():
            raise bad_request("malformed_request", "Access-Control-Request-Headers is not valid.")
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
            "Access-Control-Allow-Headers": wanted or "*",
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }


@lru_cache(maxsize=256)
def _host_trouble(host: str, own_name: str, guarded: bool) -> Callable[[], Refusal] | None:
    """What to refuse a request with that names `host`; clients name the same one every time."""
    if not valid_host(host):
        return partial(malformed, "The Host header is not valid.")
    name = host_name(host)
    if guarded and name != own_name and not is_local_name(name):
        text = f"This server does not answer for the host {name!r}; use 127.0.0.1, or start it with --api-key."
        return partial(forbidden, "host_not_allowed", text)
    return None


def _is_foreign(origin: str, host: str) -> bool:
    """Whether a page of the web sends `origin`, not a program (vscode-webview:, tauri:), a page of this machine, or one
    that came from where it asks.
    """
    match = _WEB_ORIGIN.match(origin)
    if match is None:
        return origin == "null"  # what any page's sandboxed frame sends
    authority = match.group(1).lower()
    if not valid_host(authority):
        return True
    # A name that somebody else controls may be made to mean this machine: then Host and Origin are both that name.
    own = authority == host.lower() and is_local_name(host_name(authority))
    return not (own or is_loopback_name(host_name(authority)))


def _place(given: str, digests: Iterable[bytes]) -> int | None:
    """Of a key among all. In constant time: digests are of one length, and that of every key is compared."""
    digest = _digest(given)
    found = None
    for number, each in enumerate(digests):
        if hmac.compare_digest(digest, each):
            found = number
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
