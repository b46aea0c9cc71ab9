"""Whether a conversation that an engine has restored is worth anything to it, found out by trying, once for each build.

Engines for hybrid models and for those with a sliding window say that they have saved and restored, and compute the
whole prompt again. So a short text is computed, saved, forgotten, restored and asked for once more: the engine's own
timings say how much of it was there.
"""

import asyncio
import enum
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from slotproxy.instances.conversations.disk import Trouble
from slotproxy.instances.conversations.engine_kv import EngineKv, Fault, KvFailed, count
from slotproxy.instances.conversations.files import Folder
from slotproxy.instances.processes import results
from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.running.probe import Probe, resolve
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

FILE = "kv-proofs.json"
SLACK = 16  # tokens of the text that may be computed again: its last one always is, and some engines count in blocks
COMPUTE = 120.0  # seconds for the text
TEXT = (
    "A ferry crosses the bay four times a day. On Mondays it carries bread, letters and two goats; on the other days "
    "only people who work in the harbour, and a teacher with a bicycle. When fog comes in from the west the captain "
    "rings a bell, and somebody on the pier answers with a lamp until the boat is made fast."
)


class Verdict(enum.Enum):
    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_TRIED = "not tried"  # it could not be found out, and may be the next time


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`sentence` says what was seen."""

    verdict: Verdict
    sentence: str


class _Remembered(msgspec.Struct, frozen=True, kw_only=True):
    holds: bool
    sentence: str
    at: float  # seconds since 1970


class _Unproven(Exception):
    """The trial came to an end before its end."""

    def __init__(self, verdict: Verdict, sentence: str) -> None:
        super().__init__(sentence)
        self.proof = Proof(verdict=verdict, sentence=sentence)


class Proofs:
    """Tries what was not tried before, and remembers it in the state directory."""

    def __init__(self, probe: Probe, folder: Folder, state_dir: Path) -> None:
        self._probe = probe
        self._kv = EngineKv(probe)
        self._folder = folder
        self._state_dir = state_dir

    async def of(self, upstream: Upstream, kv: Kv, build: str, *, anew: bool = False) -> Proof:
        """For the engines of `build`, of which `upstream` is one whose slot nobody else uses meanwhile.

        `anew`: whatever is remembered. What does not hold is said in one line of the log.
        """
        known = None if anew else await asyncio.to_thread(recall, self._state_dir, build)
        proof = known or await self.prove(upstream, kv)
        if known is None:
            await asyncio.to_thread(remember, self._state_dir, build, proof, time.time())
        if proof.verdict is not Verdict.HOLDS and kv.how == "slots":
            logger.warning("conversations are not handed over between instances: %s", proof.sentence)
        return proof

    async def prove(self, upstream: Upstream, kv: Kv) -> Proof:
        """By trying. Afterwards the engine has no conversation; what it had is lost."""
        try:
            return await self._prove(upstream, kv)
        except _Unproven as unproven:
            return unproven.proof

    async def _prove(self, upstream: Upstream, kv: Kv) -> Proof:
        """Raises _Unproven."""
        _must(await self._kv.erase(upstream, kv))
        await self._compute(upstream, kv)
        async with self._saved(upstream, kv) as name:
            _must(await self._kv.erase(upstream, kv))
            _must(await self._kv.restore(upstream, kv, name))
        cached, computed = await self._compute(upstream, kv)
        _must(await self._kv.erase(upstream, kv))
        seen = f"of {cached + computed} tokens that were restored the engine used {cached}"
        holds = cached > 0 and computed <= SLACK
        return Proof(verdict=Verdict.HOLDS if holds else Verdict.DOES_NOT_HOLD, sentence=seen)

    @asynccontextmanager
    async def _saved(self, upstream: Upstream, kv: Kv) -> AsyncIterator[str]:
        """The name of a file with the engine's conversation, for as long as it is needed. Raises _Unproven."""
        draft = self._folder.draft()
        saved = await self._kv.save(upstream, kv, draft)
        if isinstance(saved, KvFailed):
            trouble = await self._folder.drop(draft)
            raise _Unproven(Verdict.NOT_TRIED, trouble.sentence) if trouble.full else _unproven(saved)
        settled = await self._folder.settle(draft, saved.size)
        if isinstance(settled, Trouble):
            raise _Unproven(Verdict.NOT_TRIED, settled.sentence)
        try:
            yield settled.name
        finally:
            await self._folder.delete((settled.name,))

    async def _compute(self, upstream: Upstream, kv: Kv) -> tuple[int, int]:
        """Tokens of the text that were cached, and that were computed. Raises _Unproven."""
        body = {"prompt": TEXT, "n_predict": 1, "temperature": 0, "cache_prompt": True, "stream": False}
        answer = await self._probe.ask(upstream, kv.complete, body=body, timeout=COMPUTE)
        if answer is None:
            raise _Unproven(Verdict.NOT_TRIED, f"the engine did not compute a short text within {COMPUTE:g} s")
        timings = resolve(answer.document(), "/timings")
        if not isinstance(timings, dict):
            raise _Unproven(Verdict.NOT_TRIED, f"the engine did not compute a short text: status {answer.status}")
        cached, computed = count(timings, "cache_n"), count(timings, "prompt_n")
        if cached is None or computed is None:
            raise _Unproven(Verdict.DOES_NOT_HOLD, "the engine does not say how much of a prompt was cached")
        return cached, computed


def recall(state_dir: Path, build: str) -> Proof | None:
    """What an earlier start found out; None: it did not."""
    found = results.read(state_dir / FILE, dict[str, _Remembered]).get(build)
    if found is None:
        return None
    return Proof(verdict=Verdict.HOLDS if found.holds else Verdict.DOES_NOT_HOLD, sentence=found.sentence)


def remember(state_dir: Path, build: str, proof: Proof, now: float) -> None:
    """`now` is in seconds since 1970. What was not tried is not remembered."""
    if proof.verdict is Verdict.NOT_TRIED:
        return
    kept = _Remembered(holds=proof.verdict is Verdict.HOLDS, sentence=proof.sentence, at=now)
    results.keep(state_dir / FILE, dict[str, _Remembered], build, kept, otherwise="the next start will try again")


def _must(outcome: object) -> None:
    """Raises _Unproven where it failed."""
    if isinstance(outcome, KvFailed):
        raise _unproven(outcome)


def _unproven(failed: KvFailed) -> _Unproven:
    never = failed.fault is Fault.UNSUPPORTED
    return _Unproven(Verdict.DOES_NOT_HOLD if never else Verdict.NOT_TRIED, failed.sentence)
