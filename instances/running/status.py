"""The state of one instance or upstream, and the only way to change it: every step is one log line and one metric."""

import logging
import time

from slotproxy.instances.failures import Failure
from slotproxy.instances.lifecycle import Event, State, advance
from slotproxy.instances.snapshot import Kind, OnTransition, Transition

logger = logging.getLogger(__name__)

LEVELS = {State.FAILED: logging.ERROR, State.BACKOFF: logging.WARNING}


class Status:
    """State, since when, and the last failure."""

    def __init__(self, kind: Kind, name: str, on_transition: OnTransition) -> None:
        self.kind = kind
        self.id = name
        self.state = State.STOPPED
        self.since = time.monotonic()
        self.failure: Failure | None = None
        self.restarts = 0
        self._on_transition = on_transition

    @property
    def reason(self) -> str:
        return "" if self.failure is None else self.failure.sentence

    def step(self, event: Event, detail: str = "") -> None:
        """Raises IllegalTransition."""
        before, self.state = self.state, advance(self.state, event)
        self.since = time.monotonic()
        if before is State.BACKOFF and self.state is State.STARTING:
            self.restarts += 1
        text = f" ({detail})" if detail else ""
        level = LEVELS.get(self.state, logging.INFO)
        logger.log(level, "%s %s: %s -> %s%s", self.kind.value, self.id, before.value, self.state.value, text)
        cause = "" if self.failure is None else self.failure.cause.value
        self._on_transition(Transition(instance=self.id, before=before, after=self.state, cause=cause))
