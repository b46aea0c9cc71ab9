"""What work costs on this machine, as the answers so far tell. Pure."""

SMOOTHING = 0.2  # weight of the latest figure
LEAST = 64  # tokens: fewer tell nothing


class Rate:
    """A figure that is measured again and again; until then a guess."""

    __slots__ = ("is_measured", "value")

    def __init__(self, guess: float, *, is_measured: bool = False) -> None:
        """`is_measured`: the guess counts as a first figure."""
        self.value = guess
        self.is_measured = is_measured

    def observe(self, value: float) -> None:
        self.value += (SMOOTHING if self.is_measured else 1.0) * (value - self.value)
        self.is_measured = True


class Figures:
    """Seconds, unless something else is said."""

    __slots__ = ("beyond", "decode", "kv", "prefill", "read", "text", "token", "write")

    def __init__(self) -> None:
        self.prefill = Rate(0.01)  # for a token of a prompt that is not cached
        self.token = Rate(0.05)  # for a token of an answer
        self.decode = Rate(2.0)  # from the first token of an answer to its end
        self.text = Rate(4.0)  # bytes of text in a token of a prompt
        # Share of a conversation that engines find again although what comes before its first message has changed.
        self.beyond = Rate(1.0, is_measured=True)
        self.kv = Rate(0.0)  # bytes of a saved conversation for each of its tokens
        self.write, self.read = Rate(1e-8), Rate(5e-9)  # for a byte of a saved conversation

    def computing(self, tokens: float) -> float:
        """To compute so many tokens of a prompt."""
        return max(0.0, tokens) * self.prefill.value

    def saving(self, tokens: float) -> float:
        """To save a conversation of so many tokens."""
        return tokens * self.kv.value * self.write.value

    def is_worth_saving(self, tokens: int) -> bool:
        """Whether to save and to read a conversation costs a fraction of computing it again."""
        there_and_back = tokens * self.kv.value * (self.write.value + self.read.value)
        return tokens >= LEAST and self.computing(tokens) > 4 * there_and_back

    def answered(
        self, *, size: int, prompt: int, completion: int, computed: int | None, prefill: float | None, total: float
    ) -> None:
        """An answer was complete: bytes of its prompt's text, tokens, and seconds until the first token and the end.

        None: not known. What is not known, and cannot be reckoned from what was measured, tells nothing.
        """
        if size and prompt >= LEAST:
            self.text.observe(size / prompt)
        if prefill is not None:
            self.decode.observe(total - prefill)
            if completion > 1:
                self.token.observe((total - prefill) / (completion - 1))
        elif self.token.is_measured:  # no stream: when its first token came follows from what tokens took elsewhere
            prefill = total - completion * self.token.value
        if prefill is not None and prefill > 0 and computed is not None and computed >= max(LEAST, 2 * completion):
            self.prefill.observe(prefill / computed)
