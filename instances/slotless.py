"""Which requests a server answers beside its slots, so that they need no lease. Pure."""

import re
from collections.abc import Iterable

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ENTRY = re.compile(rf"(({'|'.join(METHODS)}) )?/[^\s*]*\*?")


def is_entry(text: str) -> bool:
    """Whether it is one: `POST /tokenize`, `/tokenize` for every method, or `GET /lora*` for paths that begin so."""
    return _ENTRY.fullmatch(text) is not None


class Slotless:
    """Those that its entries name. Who answers GET without a slot answers HEAD so, too: it is the same but for the
    body.
    """

    __slots__ = ("_by_method", "entries")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """`entries`: see `is_entry`."""
        self.entries = frozenset(entries)
        # The paths of each method that has any, and what others of it may begin with. Most methods have none: asked of
        # every request, this is one look into a dict.
        self._by_method: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {}
        for method in METHODS:
            paths = [path for named, path in map(_split, self.entries) if _covers(named, method)]
            if paths:
                exact = frozenset(path for path in paths if not path.endswith("*"))
                self._by_method[method] = exact, tuple(path[:-1] for path in paths if path.endswith("*"))

    def __repr__(self) -> str:
        return f"Slotless({sorted(self.entries)})"

    def __or__(self, other: "Slotless") -> "Slotless":
        return self if other.entries <= self.entries else Slotless(self.entries | other.entries)

    @property
    def posted(self) -> frozenset[str] | None:
        """The paths of POST; None: they are not all that `has` looks at."""
        exact, beginnings = self._by_method.get("POST", (frozenset[str](), ()))
        return None if beginnings else exact

    def has(self, method: str, path: str) -> bool:
        """Whether a request for `path`, which is without its query, needs no slot."""
        found = self._by_method.get(method)
        return found is not None and (path in found[0] or (found[1] != () and path.startswith(found[1])))


def _split(entry: str) -> tuple[str, str]:
    """Its method, empty where it means all of them, and its path."""
    method, _, path = entry.rpartition(" ")
    return method, path


def _covers(named: str, method: str) -> bool:
    return named in ("", method) or (named, method) == ("GET", "HEAD")


NO_REQUESTS = Slotless()
