"""What the attempts of one request came to, and whether another is allowed. Pure.

An engine that had the prompt may have computed it, and may have died of it. So a request is sent to two upstreams at
most, and once more where it met a connection that had been closed before. An attempt that found no connection sent
nothing, and does not count.
"""

from dataclasses import dataclass, replace

from slotproxy.instances.upstream import Upstream

MOST = 2  # upstreams that one request is sent to, before its client saw a byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Those of one request that are over."""

    tried: frozenset[Upstream] = frozenset()  # each is tried once
    sent: int = 0  # how many of them had the request
    stale: bool = False  # one met a connection that its engine had closed: from then on only fresh ones are used

    def met_a_stale_connection(self) -> "Attempts":
        return replace(self, stale=True)

    def failed_on(self, upstream: Upstream, *, sent: bool) -> "Attempts":
        """`sent`: it had the request."""
        return replace(self, tried=self.tried | {upstream}, sent=self.sent + sent)

    @property
    def may_go_on(self) -> bool:
        return self.sent < MOST


NO_ATTEMPTS = Attempts()
