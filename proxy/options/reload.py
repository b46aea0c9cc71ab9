"""What of a configuration that was read again can take effect while the proxy runs. Pure."""

from collections.abc import Iterator
from dataclasses import fields, replace

from slotproxy.proxy.options.config import Settings

FIXED = ("host", "port", "state_dir", "tls_cert", "tls_key")
"""Fields of `Settings` that are settled when the proxy starts: the socket is bound, the directory locked."""


def possible(before: Settings, wanted: Settings) -> Settings:
    """`wanted`, with what cannot change as it was `before`."""
    return replace(wanted, **{name: getattr(before, name) for name in FIXED})


def summary(before: Settings, wanted: Settings) -> str:
    """One sentence for the user: which options have new values, and which of them need a new start."""
    changed = [*_changed(before, wanted)]
    now = [_option(name) for name in changed if name not in FIXED]
    later = [_option(name) for name in changed if name in FIXED]
    said = f"new values: {', '.join(now)}" if now else "no option has changed; keys and certificates were read again"
    return said + (f"; only after a new start: {', '.join(later)}" if later else "")


def _changed(before: Settings, wanted: Settings) -> Iterator[str]:
    return (one.name for one in fields(Settings) if getattr(before, one.name) != getattr(wanted, one.name))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
