"""What is asked of the policies: agents, chats, batches, conversations that begin alike, and what was recorded.

Pure, but for the reading of the record; one seed, one trace.
"""

from collections.abc import Callable

from tests.laboratory.recording import recorded
from tests.laboratory.texts import Text
from tests.laboratory.trace import Trace, Writer

INSTRUCTIONS = 2000  # tokens of 8 KB: an agent's system prompt and its tools
SHORT, LONG = 10, 400  # tokens of an answer


def chat(seed: int, conversations: int = 6, turns: int = 8) -> Trace:
    """Interleaved conversations, the first turn about 700 tokens, then short ones after 1.5 to 3 s of thinking."""
    writer = Writer(seed)
    system = (writer.piece(40),)
    for number in range(conversations):
        talk = writer.conversation(f"person {number}", system)
        last = talk.turn(writer.piece(writer.dice.uniform(620, 700)), 24, pause=writer.dice.uniform(0, 2))
        for _ in range(turns - 1):
            thinking = writer.dice.uniform(1.5, 3)
            last = talk.turn(writer.about(25), 24, after=(last,), pause=thinking)
    return writer.trace(f"chat, {conversations}")


def agents(seed: int, sessions: int = 6, *, bills: bool = True) -> Trace:
    """Coding agents: all begin with the same 8 KB, each has a title written and lets others work for it.

    A line that changes with every request comes first for the proxy, if it `bills`; engines drop it. The session that
    they name is the same for the agent, its title and those that work for it.
    """
    writer = Writer(seed)
    system, titles, helping = (writer.piece(INSTRUCTIONS),), (writer.piece(150),), writer.piece(20)
    for number in range(sessions):
        principal, session = f"developer {number % 3}", f"session {number}"
        start = writer.dice.uniform(0, 20)
        task = writer.about(150)
        title = writer.conversation(principal, titles, session=session, bills=bills)
        title.turn(task, SHORT, pause=start)
        agent = writer.conversation(principal, system, session=session, bills=bills)
        last: tuple[int, ...] = (agent.turn(task, writer.dice.uniform(30, 90), pause=start + 0.05),)
        for step in range(10):
            if step in (3, 6):
                last = tuple(_helper(writer, principal, session, (*system, helping), last, bills) for _ in range(2))
            answer, tools = writer.dice.uniform(30, 90), writer.dice.uniform(0.2, 2)
            last = (agent.turn(writer.about(180), answer, after=last, pause=tools),)
    return writer.trace("agents" if bills else "agents without the line")


def _helper(writer: Writer, principal: str, session: str, opening: Text, last: tuple[int, ...], bills: bool) -> int:
    helper = writer.conversation(principal, opening, session=session, bills=bills)
    for _ in range(3):
        last = (helper.turn(writer.about(120), writer.dice.uniform(30, 80), after=last, pause=0.3),)
    return last[0]


def flood(seed: int, requests: int = 200, others: int = 8) -> Trace:
    """One client asks everything at once; beside it others talk as in `chat`, more briefly."""
    writer = Writer(seed)
    system = (writer.piece(100),)
    for _ in range(requests):
        writer.conversation("flood", system).turn(writer.about(80), 20, pause=1.0)
    for number in range(others):
        talk = writer.conversation(f"person {number}", ())
        last = talk.turn(writer.piece(200), 20, pause=writer.dice.uniform(0, 4))
        for _ in range(5):
            last = talk.turn(writer.about(20), 20, after=(last,), pause=writer.dice.uniform(1.5, 3))
    return writer.trace("flood")


def mix(seed: int, clients: int = 16, requests: int = 6) -> Trace:
    """Clients of which every other wants long answers, the rest short ones; each asks again at once."""
    writer = Writer(seed)
    for number in range(clients):
        last: tuple[int, ...] = ()
        for _ in range(requests):
            request = writer.conversation(f"client {number}", ())
            pause = writer.dice.uniform(0, 0.1)
            last = (request.turn(writer.piece(40), LONG if number % 2 else SHORT, after=last, pause=pause),)
    return writer.trace("long and short")


def seeding(seed: int, conversations: int = 20, lanes: int = 4) -> Trace:
    """New conversations with the same system prompt of 1,000 tokens, some at a time; all engines restart half-way.

    The very first is answered before the others come: those that begin at the same moment cannot learn from each other.
    """
    writer = Writer(seed)
    system = (writer.piece(1000),)
    lasts: list[tuple[int, ...]] = [()]
    for number in range(conversations):
        talk = writer.conversation("app", system)
        after, pauses = lasts[number % len(lasts)], [writer.dice.uniform(0.5, 1.5) for _ in range(2)]
        first = talk.turn(writer.about(80), 16, after=after, pause=pauses[0])
        lasts[number % len(lasts)] = (talk.turn(writer.about(20), 16, after=(first,), pause=pauses[1]),)
        lasts = lasts * lanes if len(lasts) < lanes else lasts
    return writer.trace("seeding", restart_after=conversations)


TRACES: dict[str, Callable[[int, int], Trace]] = {
    "chat-2": lambda seed, hosts: chat(seed, 2 * hosts),
    "chat-6": lambda seed, hosts: chat(seed, 6 * hosts),
    "chat-12": lambda seed, hosts: chat(seed, 12 * hosts),
    "agents": lambda seed, hosts: agents(seed, 6 * hosts),
    "agents-plain": lambda seed, hosts: agents(seed, 6 * hosts, bills=False),
    "flood": lambda seed, hosts: flood(seed, 200 * hosts, 8 * hosts),
    "mix": lambda seed, hosts: mix(seed, 16 * hosts),
    "seeding": lambda seed, hosts: seeding(seed, 20 * hosts, 4 * hosts),
    "recorded": lambda seed, hosts: recorded(),
}
