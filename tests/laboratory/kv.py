"""What one simulated engine remembers: the text in its slot and, beside it, old prompts up to so many bytes. Pure.

The rules are those of llama.cpp's server with one slot and `--cache-ram`. A text that keeps less than half of what is
in the slot, or shares less than a tenth of itself with it, sends the slot's text to the old prompts and takes the best
of those in its place. Room is made before, the oldest go first, and a text that is larger than all the room is not
kept. A text that keeps more than half of another conversation writes over the rest of it, which is lost.
"""

from tests.laboratory.texts import Text, common, size

SIMILAR = 0.1  # llama.cpp's --slot-prompt-similarity
KEPT = 0.5  # of the slot's text; below it is put away
WORTH_LOADING = 0.25  # of an old prompt that would be kept


class EngineMemory:
    """Texts whose keys and values an engine has."""

    def __init__(self, limit: int, kv_bytes: int) -> None:
        """`limit`: bytes of old prompts."""
        self.slot: Text = ()
        self.old: list[Text] = []  # the oldest first
        self._limit = limit / kv_bytes  # tokens

    def begin(self, prompt: Text) -> tuple[int, int]:
        """Tokens of `prompt` that need not be computed, and tokens that were copied between the slot and the rest."""
        copied = 0
        shared = common(self.slot, prompt)
        if self.slot and (shared < KEPT * size(self.slot) or shared <= SIMILAR * size(prompt)):
            copied = self._put_away() + self._take_best(prompt)
            shared = common(self.slot, prompt)
        return min(shared, size(prompt) - 1), copied

    def end(self, text: Text) -> None:
        """The slot now holds `text`: a prompt and its answer."""
        self.slot = text

    def overwrite(self, text: Text) -> None:
        """Restore a saved text over the slot. What was in the slot is lost, as in llama.cpp, not put away."""
        self.slot = text

    def clear(self) -> None:
        """Forget everything, as an engine does that is restarted."""
        self.slot, self.old = (), []

    def _put_away(self) -> int:
        text, length = self.slot, size(self.slot)
        if length > self._limit or any(common(old, text) == length for old in self.old):
            return 0
        self.old = [old for old in self.old if common(old, text) < size(old)]
        held = sum(map(size, self.old))
        while held + length > self._limit:
            held -= size(self.old.pop(0))
        self.old.append(text)
        return length

    def _take_best(self, prompt: Text) -> int:
        length = size(prompt)
        best, (keeps, similar) = None, self._fit(self.slot, prompt, length)
        for old in self.old:
            fit = self._fit(old, prompt, length)
            if fit[0] >= WORTH_LOADING and fit[0] > keeps and fit[1] > similar:
                best, (keeps, similar) = old, fit
        if best is not None:
            self.old.remove(best)
            self.slot = best
        return 0 if best is None else size(best)

    @staticmethod
    def _fit(text: Text, prompt: Text, length: int) -> tuple[float, float]:
        shared = common(text, prompt)
        return shared / size(text), shared / length


class PerfectMemory(EngineMemory):
    """Has every text that its engine ever had, at no cost: a bound, no engine."""

    def begin(self, prompt: Text) -> tuple[int, int]:
        shared = max((common(text, prompt) for text in self.old), default=0)
        return min(shared, size(prompt) - 1), 0

    def end(self, text: Text) -> None:
        self.old = [old for old in self.old if common(old, text) < size(old)]
        self.old.append(text)
