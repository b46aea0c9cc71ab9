"""The socket clients connect to, and the certificate they see."""

import contextlib
import ipaddress
import logging
import resource
import socket
import ssl

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
