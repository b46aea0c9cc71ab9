"""What clients ask for, and when: turns that wait for other turns. Pure.

A client reads an answer, thinks, and asks again, so a turn comes so many seconds after the turns before it have ended,
whenever that was: a slow policy is not asked faster than its clients can.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from slotproxy.instances.slots.claim import Claim, Priority
from tests.laboratory.texts import Piece, Text, common, prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request and its answer."""

    principal: str
    conversation: int
    prompt: Text  # as the engine reads it
    first_user: int  # the piece of `prompt` with which the first message of the user begins
    answer: Piece
    after: tuple[int, ...] = ()  # the turns, by their place in the trace, that have ended before
    pause: float = 0.0  # seconds from then on; from 0 where there are none
    session: str | None = None
    billing: Piece | None = None  # what the proxy reads before `prompt`, and the engine drops

    @property
    def text(self) -> Text:
        """What the engine has of the conversation once the turn has ended."""
        return (*self.prompt, self.answer)

    def claim(self) -> Claim:
        """What the proxy would make of it."""
        seen = self.prompt if self.billing is None else (self.billing, *self.prompt)
        known = prefix(seen, self.first_user + len(seen) - len(self.prompt))
        return Claim(principal=self.principal, priority=Priority.INTERACTIVE, session=self.session, prefix=known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Turns in an order in which each comes after those it waits for."""

    name: str
    turns: tuple[Turn, ...]
    restart_after: int | None = None  # once so many turns have ended, every engine is restarted

    def known(self) -> list[int]:
        """Tokens of each turn's prompt that an engine of its conversation's own would have."""
        texts: dict[int, Text] = {}
        found = []
        for turn in self.turns:
            found.append(common(texts.get(turn.conversation, ()), turn.prompt))
            texts[turn.conversation] = turn.text
        return found

    def followed_up(self) -> set[int]:
        """Conversations of more than one turn."""
        turns = Counter(turn.conversation for turn in self.turns)
        return {conversation for conversation, count in turns.items() if count > 1}


class Writer:
    """Makes a trace turn by turn."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.turns: list[Turn] = []
        self._numbers = itertools.count(1)

    def piece(self, tokens: float) -> Piece:
        """A message that no other text has."""
        return Piece(next(self._numbers), max(1, round(tokens)))

    def about(self, tokens: float) -> Piece:
        """The same, of about so many tokens: half as many to twice as many, for nine of ten."""
        return self.piece(self.dice.lognormvariate(0.0, 0.42) * tokens)

    def conversation(self, principal: str, opening: Text, *, session: str | None = None, bills: bool = False) -> "Talk":
        """A new conversation that begins with `opening`: what the system says, before the user speaks."""
        return Talk(self, principal, opening, session, bills)

    def trace(self, name: str, restart_after: int | None = None) -> Trace:
        return Trace(name=name, turns=tuple(self.turns), restart_after=restart_after)

    def add(self, turn: Turn) -> int:
        """Its place in the trace."""
        self.turns.append(turn)
        return len(self.turns) - 1


class Talk:
    """One conversation as it grows."""

    def __init__(self, writer: Writer, principal: str, opening: Text, session: str | None, bills: bool) -> None:
        self._writer, self._principal, self._session, self._bills = writer, principal, session, bills
        self._number = next(writer._numbers)
        self._text, self._first_user = opening, len(opening)

    def turn(self, said: Piece, answer: float, *, after: Sequence[int] = (), pause: float = 0.0) -> int:
        """The user says `said`, the answer has `answer` tokens; its place in the trace."""
        writer = self._writer
        turn = Turn(
            principal=self._principal,
            conversation=self._number,
            prompt=(*self._text, said),
            first_user=self._first_user,
            answer=writer.piece(answer),
            after=tuple(after),
            pause=pause,
            session=self._session,
            billing=writer.piece(30) if self._bills else None,
        )
        self._text = turn.text
        return writer.add(turn)
