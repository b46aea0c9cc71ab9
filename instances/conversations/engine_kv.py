"""An engine is asked to save what it has computed of its conversation, to take up a saved one, or to forget it.

In llama-server's way: POST /slots/0?action=save, restore or erase. Whoever asks holds the engine's slot: the engine
would wait for a request that it has.
"""

import asyncio
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.running.probe import Answer, Probe
from slotproxy.instances.upstream import Upstream

PATIENCE = 30.0  # seconds for a file, which may have gigabytes
ERASE = 5.0  # seconds
UNKNOWN = (404, 405, 501)  # statuses of an engine that has no such action


class Fault(enum.Enum):
    """What came instead."""

    NO_ANSWER = "no answer"  # in time, or none at all: whether something was done is not known
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"  # and it never will be
    EMPTY = "empty"  # there was nothing to save or in the file
    NONSENSE = "nonsense"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvFailed:
    fault: Fault
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedBytes:
    """The engine says that it wrote a file."""

    tokens: int
    size: int  # bytes
    seconds: float  # that it took, as seen from here


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The engine says that it read a file. How much of it a prompt can use shows only then."""

    tokens: int
    size: int  # bytes
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    tokens: int


class EngineKv:
    """Asks by `probe`. File names are relative to the folder that the engine was given for them."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def save(self, upstream: Upstream, kv: Kv, name: str) -> SavedBytes | KvFailed:
        """A file may be there, in part, although it failed."""
        began = _now()
        answer = await self._act(upstream, kv, "save", PATIENCE, filename=name)
        found = answer if isinstance(answer, KvFailed) else _counts(answer, "n_saved", "n_written")
        if isinstance(found, KvFailed):
            return found
        return SavedBytes(tokens=found[0], size=found[1], seconds=_now() - began)

    async def restore(self, upstream: Upstream, kv: Kv, name: str) -> Restored | KvFailed:
        """Over whatever it had: that is lost. Not of a file that is not whole: the engine may die of it."""
        began = _now()
        answer = await self._act(upstream, kv, "restore", PATIENCE, filename=name)
        found = answer if isinstance(answer, KvFailed) else _counts(answer, "n_restored", "n_read")
        if isinstance(found, KvFailed):
            return found
        return Restored(tokens=found[0], size=found[1], seconds=_now() - began)

    async def erase(self, upstream: Upstream, kv: Kv) -> Erased | KvFailed:
        answer = await self._act(upstream, kv, "erase", ERASE)
        if isinstance(answer, KvFailed):
            return answer
        tokens = count(answer, "n_erased")
        return _nonsense() if tokens is None else Erased(tokens=tokens)

    async def _act(
        self, upstream: Upstream, kv: Kv, action: str, patience: float, **body: str
    ) -> Mapping[str, Any] | KvFailed:
        if kv.how != "slots":
            return KvFailed(fault=Fault.UNSUPPORTED, sentence="its profile says that it saves no conversations")
        answer = await self._probe.ask(upstream, f"{kv.path}?action={action}", body=body, timeout=patience)
        if answer is None:
            return KvFailed(fault=Fault.NO_ANSWER, sentence=f"no answer to {action} within {patience:g} s")
        if answer.status >= 300:
            fault = Fault.UNSUPPORTED if answer.status in UNKNOWN else Fault.REFUSED
            return KvFailed(fault=fault, sentence=f"{action}: status {answer.status}, {_excerpt(answer)}")
        document = answer.document()
        return document if isinstance(document, dict) else _nonsense()


def count(document: Mapping[str, Any], key: str) -> int | None:
    """The number under `key`; None: there is none that counts something."""
    found = document.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _counts(document: Mapping[str, Any], tokens: str, size: str) -> tuple[int, int] | KvFailed:
    found = count(document, tokens), count(document, size)
    if found[0] is None or found[1] is None:
        return _nonsense()
    if not found[0]:
        return KvFailed(fault=Fault.EMPTY, sentence="there is no conversation to be saved or restored")
    return found[0], found[1]


def _nonsense() -> KvFailed:
    return KvFailed(fault=Fault.NONSENSE, sentence="its answer is not llama-server's")


def _excerpt(answer: Answer) -> str:
    return answer.body[:200].decode(errors="replace") or "empty"


def _now() -> float:
    return asyncio.get_running_loop().time()
