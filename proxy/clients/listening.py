"""The socket clients connect to, and the certificate they see."""

import contextlib
import ipaddress
import logging
import resource
import socket
import ssl
from urllib.parse import urlsplit

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.proxy.options.config import Settings

logger = logging.getLogger(__name__)

BACKLOG = 1024
MANY = 65_536  # file descriptors
OURS = 40  # file descriptors that are not for clients, at least


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises StartupError, ConfigurationError with a sentence."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
    except OSError:
        raise ConfigurationError(f"--host {host} is no address or name of this machine") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
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


def announce(host: str, listening: socket.socket, *, secure: bool) -> None:
    """Tell the user where clients connect."""
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    url = f"http{'s' if secure else ''}://{shown}:{port}"
    logger.info("listening on %s (OpenAI base URL: %s/v1)", url, url)


def is_loopback(listening: socket.socket) -> bool:
    """Whether only programs on this machine reach a socket that listens: by its address, however that was written."""
    address = ipaddress.ip_address(listening.getsockname()[0].split("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def leads_to(url: str, listening: socket.socket) -> bool:
    """Whether a request to `url` would come to `listening`, as far as this machine can tell. Not for the event loop: a name
    is looked up if the port is the same.
    """
    parts = urlsplit(url)
    address, port = listening.getsockname()[:2]
    if (parts.port or (443 if parts.scheme == "https" else 80)) != port:
        return False
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # whether it will be found later is seen when it is asked
        return False
    here = _address(address)
    return any(_is_reached(here, _address(str(there[0]))) for *_, there in found)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> Address:
    address = ipaddress.ip_address(text.split("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _is_reached(here: Address, there: Address) -> bool:
    """Whether a socket that listens at `here` gets the connections to `there`."""
    if there.is_unspecified:  # a connection to it goes to this machine
        there = ipaddress.ip_address("127.0.0.1" if there.version == 4 else "::1")
    if not here.is_unspecified:
        return here == there
    return here.version in (there.version, 6) and _is_of_this_machine(there)


def _is_of_this_machine(address: Address) -> bool:
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True
