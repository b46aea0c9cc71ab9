"""The sockets clients connect to, and the certificate they see."""

import contextlib
import errno
import ipaddress
import logging
import resource
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.proxy.options.config import Settings

logger = logging.getLogger(__name__)

BACKLOG = 1024
MANY = 65_536  # file descriptors
OURS = 40  # file descriptors that are not for clients, at least
ATTEMPTS = 16  # ports that are tried until one is free at every address
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # as ::1, where IPv6 is switched off

Address = tuple[int, str, int]  # family, host, scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Sockets that listen on one port: one for each address of --host."""

    sockets: tuple[socket.socket, ...]  # at least one

    @property
    def port(self) -> int:
        return int(self.sockets[0].getsockname()[1])

    def close(self) -> None:
        for listening in self.sockets:
            listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listen(host: str, port: int) -> Listening:
    """Sockets on every address that `host` has and this machine knows; for port 0 on one that all of them have free.

    Raises StartupError, ConfigurationError with a sentence.
    """
    addresses = _addresses(host)
    for attempt in range(ATTEMPTS):
        try:
            return _listen_on(addresses, port)
        except OSError as error:
            if port == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < ATTEMPTS:
                continue  # the port that was free at one address is taken at another
            raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    raise AssertionError("the last attempt returns or raises")


def _addresses(host: str) -> list[Address]:
    """Each once, in the system's order."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):  # UnicodeError: no name can be written like that
        raise ConfigurationError(f"--host {host} is no address or name of this machine") from None
    return list(
        dict.fromkeys(
            (family, str(address[0]), address[3] if len(address) == 4 else 0) for family, _, _, _, address in found
        )
    )


def _listen_on(addresses: Sequence[Address], port: int) -> Listening:
    """Those of `addresses` that this machine does not have are left out, unless it has none. Raises OSError."""
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    with contextlib.ExitStack() as failed:
        for address in addresses:
            try:
                listening = _bound(address, port, alone=len(addresses) == 1)
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                absent = error
                continue
            failed.callback(listening.close)
            sockets.append(listening)
            port = listening.getsockname()[1]
        if not sockets and absent is not None:
            raise absent
        failed.pop_all()
    return Listening(sockets=tuple(sockets))


def _bound(address: Address, port: int, *, alone: bool) -> socket.socket:
    """`alone`: the only one; `::` then takes IPv4 too, where the system does so. Raises OSError."""
    family, host, scope = address
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port, 0, scope) if family == socket.AF_INET6 else (host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def room_for_clients() -> int:
    """Connections that clients may have at a time: file descriptors, less those for engines, their logs and our own.

    Raises this process's soft limit first, as far as its hard limit allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY if hard == resource.RLIM_INFINITY else min(hard, MANY)
    if soft == resource.RLIM_INFINITY:
        return MANY
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(1, soft - max(OURS, soft // 8))


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """A context of its own each time, so that one that does not load changes nothing. None: clients use plain HTTP.

    Raises ConfigurationError.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"--tls-cert {settings.tls_cert} and --tls-key do not load: {error}") from None
    return context


def announce(host: str, listening: Listening, *, secure: bool) -> None:
    """Tell the user where clients connect."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http{'s' if secure else ''}://{shown}:{listening.port}"
    logger.info("listening on %s (OpenAI base URL: %s/v1)", url, url)


def is_loopback(listening: Listening) -> bool:
    """Whether only programs on this machine reach us, on every address: by what was bound, however that was written."""
    return all(_is_loopback(one.getsockname()[0]) for one in listening.sockets)


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host.split("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def leads_to(url: str, listening: Listening) -> bool:
    """Whether a request to `url` would come to `listening`, as far as this machine can tell.

    Not for the event loop: a name is looked up if the port is the same.
    """
    parts = urlsplit(url)
    port = listening.port
    if (parts.port or (443 if parts.scheme == "https" else 80)) != port:
        return False
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # whether it will be found later is seen when it is asked
        return False
    ours = [_address(one.getsockname()[0]) for one in listening.sockets]
    return any(_is_reached(here, _address(str(there[0]))) for here in ours for *_, there in found)


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> IPAddress:
    address = ipaddress.ip_address(text.split("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _is_reached(here: IPAddress, there: IPAddress) -> bool:
    """Whether a socket that listens at `here` gets the connections to `there`."""
    if there.is_unspecified:  # a connection to it goes to this machine
        there = ipaddress.ip_address("127.0.0.1" if there.version == 4 else "::1")
    if not here.is_unspecified:
        return here == there
    return here.version in (there.version, 6) and _is_of_this_machine(there)


def _is_of_this_machine(address: IPAddress) -> bool:
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True
