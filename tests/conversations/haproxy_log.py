"""HAProxy's own account of how long requests waited for an engine. Pure."""

import re
from collections.abc import Iterator

LINE = re.compile(r"^(?:<\d+>)?(?P<wait>-?\d+) (?P<status>-?\d+) (?P<client>[\w.-]+)$", re.MULTILINE)


def waits(log: str) -> Iterator[tuple[str, float]]:
    """Who asked, and the seconds it queued; requests that name no client, such as health checks, are left out."""
    for match in LINE.finditer(log):
        if match["client"] != "-" and int(match["wait"]) >= 0:
            yield match["client"], int(match["wait"]) / 1000
