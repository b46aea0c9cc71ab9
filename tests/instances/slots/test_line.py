"""The line: fair between principals, first come, first served within one, and nobody waits for ever."""

import itertools
import random
from collections import Counter, deque
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slotproxy.instances.errors import ClientQueueFull, QueueFull
from slotproxy.instances.slots.claim import Claim, Prefix, Priority
from slotproxy.instances.slots.levels import HALF_LIFE, REMEMBERED
from slotproxy.instances.slots.line import PATIENCE, Ahead, Line
from slotproxy.instances.slots.principal import USUAL_COST

NOW = 1000.0


def claim(principal: str = "", *, batch: bool = False, tokens: int = 0) -> Claim:
    """Of a request with a prompt of `tokens`."""
    priority = Priority.BATCH if batch else Priority.INTERACTIVE
    prefix = Prefix(numbers=(1,), ends=(tokens * 4,)) if tokens else Prefix()
    return Claim(principal=principal, priority=priority, prefix=prefix)


class Engines:
    """So many slots before which a line stands; every request takes its turn and then has cost what it is said to."""

    def __init__(self, line: Line, slots: int = 1) -> None:
        self.line = line
        self.slots = slots
        self.now = NOW
        self.tickets = itertools.count(1)
        self.asked: dict[int, str] = {}
        self.costs: dict[int, float] = {}
        self.held: deque[int] = deque()

    def ask(self, *claims: Claim, cost: float = USUAL_COST) -> list[int]:
        tickets = []
        for one in claims:
            ticket = next(self.tickets)
            self.line.join(ticket, one, self.now)
            self.asked[ticket], self.costs[ticket] = one.principal, cost
            tickets.append(ticket)
        return tickets

    def serve(self) -> str:
        """Let a request end if all slots are held, and grant the next one; whose it is."""
        if len(self.held) == self.slots:
            done = self.held.popleft()
            self.line.served(done, self.costs[done], self.now)
        ticket = next(self.line.order(self.now))
        self.line.granted(ticket, self.now)
        self.held.append(ticket)
        return self.asked[ticket]

    def serve_all(self) -> list[str]:
        return [self.serve() for _ in range(len(self.line))]


def ordered(line: Line, now: float = NOW) -> list[int]:
    return list(line.order(now))


# one principal


class OnePrincipal(RuleBasedStateMachine):
    """With one principal and one priority the line is a plain queue, whatever requests cost and when they come."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.queue: list[int] = []
        self.held: list[int] = []
        self.tickets = itertools.count()
        self.now = NOW

    @rule(tokens=st.integers(0, 10_000), seconds=st.floats(0, 100))
    def join(self, tokens: int, seconds: float) -> None:
        self.now += seconds
        ticket = next(self.tickets)
        self.line.join(ticket, claim(tokens=tokens), self.now)
        self.queue.append(ticket)

    @rule()
    def grant(self) -> None:
        for ticket in self.line.order(self.now):
            assert ticket == self.queue.pop(0)
            self.line.granted(ticket, self.now)
            self.held.append(ticket)
            break

    @rule(which=st.integers(0, 10), cost=st.floats(0, 10_000))
    def serve(self, which: int, cost: float) -> None:
        if which < len(self.held):
            self.line.served(self.held.pop(which), cost, self.now)

    @rule(which=st.integers(0, 10))
    def leave(self, which: int) -> None:
        if which < len(self.queue):
            ticket = self.queue.pop(which)
            assert self.line.leave(ticket, self.now)
            assert not self.line.leave(ticket, self.now)

    @invariant()
    def it_is_first_come_first_served(self) -> None:
        assert ordered(self.line, self.now) == self.queue
        assert len(self.line) == len(self.queue)


TestOnePrincipal = OnePrincipal.TestCase
TestOnePrincipal.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# several

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "grant", "serve", "leave", "pass"]),
        st.sampled_from("abcd"),
        st.booleans(),
        st.integers(0, 2000),
        st.sampled_from([0.0, 0.0, 1.0, 59.0, 121.0]),
    ),
    max_size=60,
)
Steps = Iterable[tuple[str, str, bool, int, float]]


def played(steps: Steps, line: Line) -> float:
    """Play `steps` on the line; the time when they are over."""
    now = NOW
    tickets = itertools.count()
    held: deque[int] = deque()
    for kind, name, batch, amount, seconds in steps:
        now += seconds
        if kind == "join":
            line.join(next(tickets), claim(name, batch=batch, tokens=amount), now)
        elif kind == "pass":
            ticket = next(tickets)
            line.passed(ticket, claim(name, batch=batch, tokens=amount), now)
            held.append(ticket)
        elif kind == "grant" and len(line):
            ticket = next(line.order(now))
            line.granted(ticket, now)
            held.append(ticket)
        elif kind == "serve" and held:
            line.served(held.popleft(), float(amount), now)
        elif kind == "leave" and len(line):
            assert line.leave(ordered(line, now)[amount % len(line)], now)
    return now


@given(STEPS)
def test_the_same_state_gives_the_same_order_however_often_it_is_asked(steps: Steps) -> None:
    line, other = Line(), Line()
    now = played(steps, line)
    played(steps, other)
    order = ordered(line, now)
    assert order == ordered(line, now) == ordered(other, now)
    assert len(order) == len(set(order)) == len(line)
    assert all(ticket in line for ticket in order)
    assert [line.position(ticket, now) for ticket in order] == list(range(len(order)))


@given(STEPS)
def test_the_order_is_that_in_which_tickets_are_granted(steps: Steps) -> None:
    """Asked anew before every grant, granted as they come out, or foreseen without granting any."""
    anew, going, foreseen = Line(), Line(), Line()
    now = played(steps, anew)
    played(steps, going)
    played(steps, foreseen)
    granted = []
    while len(anew):
        granted.append(next(anew.order(now)))
        anew.granted(granted[-1], now)
    went = []
    for ticket in going.order(now):
        went.append(ticket)
        going.granted(ticket, now)
    assert went == granted
    assert ordered(foreseen, now) == granted


def test_what_is_foreseen_heeds_weights_and_what_a_token_counts_now() -> None:
    line, other = Line(weights={"heavy": 3.0}), Line(weights={"heavy": 3.0})
    later = NOW + HALF_LIFE - 1
    for one in (line, other):
        one.passed(-1, claim("first"), NOW)
        one.passed(-2, claim("greedy"), later)
        one.served(-2, 6 * USUAL_COST, later)
        for ticket in range(0, 60, 3):
            one.join(ticket, claim("greedy"), later)
            one.join(ticket + 1, claim("heavy"), later)
            one.join(ticket + 2, claim("light"), later)
    granted = []
    while len(line):
        granted.append(next(line.order(later)))
        line.granted(granted[-1], later)
    assert ordered(other, later) == granted
    assert granted.index(0) >= 15, "six of the light and three times as many of the heavy come first"


@given(STEPS, st.integers(0, 9))
def test_a_ticket_that_is_passed_over_does_not_come_again(steps: Steps, which: int) -> None:
    line = Line()
    now = played(steps, line)
    before, order = len(line), []
    for index, ticket in enumerate(line.order(now)):
        order.append(ticket)
        if index != which:
            line.granted(ticket, now)
    assert len(order) == len(set(order)) == before
    assert len(line) == (before > which)


@given(STEPS)
def test_interactive_tickets_come_before_all_of_the_batch(steps: Steps) -> None:
    line = Line()
    short = [(kind, name, batch, amount, 0.0) for kind, name, batch, amount, _ in steps]
    line.join(-1, claim("z", batch=True), NOW)
    now = played(short, line)
    line.join(-2, claim("y"), now)
    order = ordered(line, now)
    if -1 in order:
        assert order.index(-2) < order.index(-1)


@given(STEPS)
def test_what_one_principal_asks_at_one_priority_is_served_as_it_came(steps: Steps) -> None:
    line = Line()
    now = played(steps, line)
    for name in "abcd":
        before = len(line)
        for number in range(3):
            line.join(1000 + number, claim(name), now)
        assert [ticket for ticket in ordered(line, now) if ticket >= 1000] == [1000, 1001, 1002]
        for number in range(3):
            line.leave(1000 + number, now)
        assert len(line) == before


# fairness


@pytest.mark.parametrize("slots", [1, 3])
def test_a_flood_keeps_nobody_else_waiting_behind_more_than_one_of_each(slots: int) -> None:
    random_ = random.Random(7)
    line = Line()
    engines = Engines(line, slots)
    engines.ask(*[claim("flood")] * 200)
    for _ in range(150):
        if random_.random() < 0.4:
            name = f"client {random_.randrange(8)}"
            if name not in [engines.asked[ticket] for ticket in line.order(NOW)]:
                (ticket,) = engines.ask(claim(name))
                assert line.position(ticket, NOW) <= 9
        engines.serve()


def test_a_flood_of_prompts_that_are_cached_keeps_nobody_waiting_either() -> None:
    """They are expected to cost twenty times what they do."""
    engines = Engines(Line(), 2)
    engines.ask(*[claim("flood", tokens=20_000)] * 100, cost=500)
    for _ in range(20):
        engines.serve()
    engines.ask(claim("other"))
    assert "other" in [engines.serve() for _ in range(3)]


def test_whoever_comes_waits_for_no_service_that_a_flood_lags_behind() -> None:
    """One has had an answer a hundred times as long as those of the flood, which has that to catch up with."""
    engines = Engines(Line())
    engines.ask(claim("long"), cost=USUAL_COST * 100)
    engines.ask(*[claim("flood")] * 200)
    engines.ask(claim("long"))
    for _ in range(5):
        engines.serve()
    (ticket,) = engines.ask(claim("other"))
    assert engines.line.position(ticket, NOW) <= 2


def test_tokens_are_shared_evenly_not_requests() -> None:
    engines = Engines(Line())
    tickets = [*engines.ask(*[claim("short")] * 300, cost=100), *engines.ask(*[claim("long")] * 300, cost=1000)]
    served = Counter(engines.serve() for _ in range(110))
    assert len(tickets) == 600
    assert 8 <= served["short"] / served["long"] <= 12


def test_tokens_are_shared_by_weight() -> None:
    engines = Engines(Line(weights={"heavy": 3.0}))
    engines.ask(*[claim("light")] * 200)
    engines.ask(*[claim("heavy")] * 200)
    served = Counter(engines.serve() for _ in range(100))
    assert 72 <= served["heavy"] <= 78


def test_weights_that_are_new_count_from_then_on() -> None:
    line = Line()
    engines = Engines(line)
    engines.ask(*[claim("a")] * 200)
    engines.ask(*[claim("b")] * 200)
    for _ in range(20):
        engines.serve()
    line.reconfigure(weights={"b": 4.0})
    served = Counter(engines.serve() for _ in range(100))
    assert 75 <= served["b"] <= 85


def test_nothing_is_owed_for_the_time_in_which_nothing_was_asked() -> None:
    engines = Engines(Line())
    engines.ask(claim("idle"))
    engines.serve()
    engines.ask(*[claim("busy")] * 100)
    for _ in range(50):
        engines.serve()
    engines.ask(*[claim("idle")] * 40, *[claim("new")] * 40)
    served = [engines.serve() for _ in range(60)]
    assert max(Counter(served).values()) - min(Counter(served).values()) <= 2


def test_who_had_more_than_its_share_waits_until_that_is_made_up_for() -> None:
    engines = Engines(Line())
    engines.ask(claim("greedy"), cost=10 * USUAL_COST)
    engines.serve()
    engines.ask(*[claim("greedy")] * 3)
    engines.ask(*[claim("other")] * 30)
    engines.serve()
    first = engines.serve_all().index("greedy")
    assert 7 <= first <= 11


def test_a_debt_is_halved_with_every_half_life() -> None:
    line = Line()
    line.passed(1, claim("greedy"), NOW)
    line.served(1, 80 * USUAL_COST, NOW)
    later = NOW + 3 * HALF_LIFE
    line.join(2, claim("greedy"), later)
    for ticket in range(3, 43):
        line.join(ticket, claim("other"), later)
    assert 9 <= ordered(line, later).index(2) <= 11


def test_service_of_a_moment_ago_counts_for_more() -> None:
    line = Line()
    line.passed(1, claim("earlier"), NOW)
    line.served(1, 110 * USUAL_COST, NOW)
    later = NOW + HALF_LIFE - 1
    line.passed(2, claim("later"), later)
    line.served(2, 100 * USUAL_COST, later)
    line.join(3, claim("later"), later)
    line.join(4, claim("earlier"), later)
    assert ordered(line, later) == [4, 3]


def test_service_that_came_without_waiting_is_service_all_the_same() -> None:
    engines = Engines(Line())
    engines.ask(*[claim("busy")] * 15)
    for _ in range(10):
        engines.serve()
    engines.line.passed(-1, claim("new"), NOW)
    engines.line.served(-1, 3 * USUAL_COST, NOW)
    (new,) = engines.ask(claim("new"))
    assert 3 <= engines.line.position(new, NOW) <= 4


def test_what_costs_nothing_cannot_be_asked_for_ever_before_others() -> None:
    engines = Engines(Line())
    for _ in range(200):
        engines.ask(claim("free"), cost=0.0)
        engines.serve()
    engines.line.passed(-1, claim("greedy"), NOW)
    engines.line.served(-1, 300.0, NOW)
    engines.ask(claim("greedy"))
    for count in itertools.count():
        engines.ask(claim("free"), cost=0.0)
        if engines.serve() == "greedy":
            break
        assert count < 400


def test_a_slot_that_is_held_counts_as_what_it_is_expected_to_cost() -> None:
    line = Line()
    line.join(1, claim("a"), NOW)
    line.join(2, claim("a"), NOW)
    line.join(3, claim("b", tokens=100), NOW)
    line.granted(1, NOW)
    assert ordered(line) == [3, 2]
    line.granted(3, NOW)
    line.join(4, claim("b"), NOW)
    assert ordered(line) == [2, 4], "b holds more than a"


def test_a_slot_that_was_given_up_has_cost_what_was_expected() -> None:
    told, untold = Line(), Line()
    for line in (told, untold):
        line.join(1, claim("a", tokens=300), NOW)
        line.granted(1, NOW)
    told.served(1, 300 + USUAL_COST, NOW)
    assert not untold.leave(1, NOW)
    untold.served(1, 100_000, NOW)
    for line in (told, untold):
        line.join(2, claim("a"), NOW)
        for ticket in range(3, 9):
            line.join(ticket, claim("b"), NOW)
    assert ordered(told) == ordered(untold)


def test_the_first_word_on_what_a_ticket_cost_is_the_last() -> None:
    line = Line()
    line.passed(1, claim("a"), NOW)
    line.served(1, 1.0, NOW)
    line.served(1, 1e9, NOW)
    line.leave(1, NOW)
    line.join(2, claim("a"), NOW)
    line.join(3, claim("b"), NOW)
    assert ordered(line) == [2, 3]


# nobody waits for ever


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.sampled_from([0.0, 1.0, 300.0])), min_size=1, max_size=20),
    st.integers(1, 4),
    st.sampled_from([0.0, 20.0, 200.0]),
)
def test_no_stream_of_newcomers_starves_a_ticket(
    pattern: list[tuple[int, bool, float]], slots: int, debt: float
) -> None:
    """Whoever comes has never been seen before, or comes again and again; the ticket's principal has had its share."""
    line = Line()
    engines = Engines(line, slots)
    line.passed(-1, claim("patient"), NOW)
    line.served(-1, debt, NOW)
    engines.ask(claim("patient"))
    names = itertools.count()
    for count in itertools.count():
        arrivals, again, cost = pattern[count % len(pattern)]
        if len(line) < 20:
            kind = [claim(f"regular {one}" if again else f"new {next(names)}") for one in range(arrivals)]
            engines.ask(*kind, cost=cost)
        if engines.serve() == "patient":
            break
        assert count < 25 * (debt + 4 * slots + 10), "it is never served"


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=10))
def test_no_stream_of_interactive_requests_starves_a_batch_ticket(names: list[str]) -> None:
    engines = Engines(Line())
    (batch,) = engines.ask(claim("a", batch=True))
    engines.ask(*[claim(name) for name in names])
    for count in itertools.count():
        engines.now += 10.0
        engines.ask(claim(names[count % len(names)]))
        engines.serve()
        if batch not in engines.line:
            break
        assert count < PATIENCE / 10.0 + 30


# the batch


def test_batch_tickets_wait_while_others_are_waiting() -> None:
    line = Line()
    line.join(1, claim("a", batch=True), NOW)
    line.join(2, claim("a"), NOW)
    line.join(3, claim("b", batch=True), NOW)
    line.join(4, claim("b"), NOW)
    assert ordered(line) == [2, 4, 1, 3]


def test_a_batch_ticket_that_has_waited_counts_by_the_time_at_which_it_joined() -> None:
    line = Line()
    line.join(1, claim("a"), NOW)
    line.join(2, claim("a", batch=True), NOW)
    for ticket in range(3, 8):
        line.join(ticket, claim("a"), NOW + 1)
    assert ordered(line, NOW + PATIENCE - 0.1)[-1] == 2
    assert ordered(line, NOW + PATIENCE) == [1, 2, 3, 4, 5, 6, 7]


def test_what_the_batch_waited_is_no_credit() -> None:
    """A hundred batch tickets that are promoted together share with whoever asks; they do not all come first."""
    engines = Engines(Line())
    engines.ask(*[claim("batch", batch=True)] * 100)
    for _ in range(200):
        engines.ask(claim("user"))
        engines.serve()
    engines.now += PATIENCE
    engines.ask(*[claim("user")] * 50)
    served = Counter(engines.serve() for _ in range(40))
    assert 18 <= served["user"] <= 22


def test_the_batch_is_fair_within_itself() -> None:
    engines = Engines(Line())
    engines.ask(*[claim("flood", batch=True)] * 50)
    engines.serve()
    (ticket,) = engines.ask(claim("other", batch=True))
    assert engines.line.position(ticket, NOW) <= 2


def test_nothing_is_owed_to_the_batch_for_the_time_in_which_it_was_not_asked_for_anything() -> None:
    engines = Engines(Line())
    engines.ask(*[claim("busy", batch=True)] * 60)
    for _ in range(20):
        engines.serve()
    engines.ask(*[claim("new", batch=True)] * 30)
    served = Counter(engines.serve() for _ in range(20))
    assert 9 <= served["new"] <= 12


# bounds


def test_a_principal_may_have_so_many_tickets_waiting() -> None:
    line = Line(per_client=2)
    for ticket, batch in enumerate((False, True)):
        line.join(ticket, claim("a", batch=batch), NOW)
    with pytest.raises(ClientQueueFull, match="as many requests waiting as it may: 2") as caught:
        line.join(2, claim("a"), NOW)
    assert isinstance(caught.value, QueueFull)
    assert caught.value.waiting == 2
    line.join(3, claim("b"), NOW)
    line.granted(0, NOW)
    line.join(4, claim("a"), NOW)
    assert len(line) == 3


def test_a_limit_that_is_new_leaves_those_who_wait() -> None:
    line = Line()
    for ticket in range(3):
        line.join(ticket, claim("a"), NOW)
    line.reconfigure(per_client=1)
    assert ordered(line) == [0, 1, 2]
    with pytest.raises(ClientQueueFull):
        line.join(3, claim("a"), NOW)
    line.reconfigure()
    line.join(3, claim("a"), NOW)


def test_a_limit_counts_promoted_batch_tickets() -> None:
    line = Line(per_client=1)
    line.join(1, claim("a", batch=True), NOW)
    assert ordered(line, NOW + PATIENCE) == [1]
    with pytest.raises(ClientQueueFull, match="as it may: 1"):
        line.join(2, claim("a"), NOW + PATIENCE)


def test_whose_service_has_decayed_to_nothing_is_forgotten() -> None:
    line = Line()
    for name in ("a", "b"):
        line.passed(ord(name), claim(name), NOW)
        line.served(ord(name), 1000.0, NOW)
    line.passed(1, claim("held"), NOW)
    line.join(2, claim("waits"), NOW)
    assert set(line.principals) == {"a", "b", "held", "waits"}
    ordered(line, NOW + 5 * HALF_LIFE)
    assert set(line.principals) == {"a", "b", "held", "waits"}
    ordered(line, NOW + 20 * HALF_LIFE)
    assert set(line.principals) == {"held", "waits"}


def test_only_so_many_principals_are_remembered_and_the_greediest_longest() -> None:
    line = Line()
    line.passed(-1, claim("greedy"), NOW)
    line.served(-1, 1e9, NOW)
    for ticket in range(5 * REMEMBERED):
        line.passed(ticket, claim(str(ticket)), NOW)
        line.leave(ticket, NOW)
        assert len(line.principals) <= REMEMBERED
    assert "greedy" in line.principals


def test_those_with_tickets_waiting_are_always_remembered() -> None:
    line = Line()
    for ticket in range(2 * REMEMBERED):
        line.join(ticket, claim(str(ticket)), NOW)
    assert len(line.principals) == 2 * REMEMBERED
    assert ordered(line) == list(range(2 * REMEMBERED))
    for ticket in range(2 * REMEMBERED):
        line.leave(ticket, NOW)
    line.join(-1, claim("another"), NOW)
    assert len(line.principals) <= REMEMBERED


@pytest.mark.parametrize("now", [0.0, 1e9])
def test_any_clock_will_do(now: float) -> None:
    line = Line()
    line.join(1, claim("a"), now)
    line.join(2, claim("b"), now + 1e9)
    assert sorted(line.order(now + 2e9)) == [1, 2]


# what is before a ticket


def test_what_is_ahead_is_told_in_tickets_and_in_tokens() -> None:
    line = Line()
    line.join(1, claim("a", tokens=1000), NOW)
    line.join(2, claim("a"), NOW)
    assert line.ahead(1, NOW) == Ahead(0, 0.0)
    assert line.ahead(2, NOW) == Ahead(1, 1000 + USUAL_COST)
    with pytest.raises(KeyError):
        line.ahead(3, NOW)


@given(STEPS)
def test_a_newcomer_is_told_what_it_would_find_and_leaves_no_trace(steps: Steps) -> None:
    line = Line(per_client=1000)
    now = played(steps, line)
    before = ordered(line, now)
    found = line.ahead_of_newcomer(claim("a"), now)
    assert ordered(line, now) == before
    line.join(5000, claim("a"), now)
    assert line.ahead(5000, now) == found


def test_a_newcomer_is_told_also_where_it_may_not_wait() -> None:
    line = Line(per_client=1)
    line.join(1, claim("a"), NOW)
    assert line.ahead_of_newcomer(claim("a"), NOW).tickets == 1
    assert len(line) == 1


def test_its_repr_tells_who_waits_and_who_is_served() -> None:
    line = Line()
    assert repr(line) == "<Line of 0: nobody>"
    line.join(1, claim("a"), NOW)
    line.passed(2, claim("b"), NOW)
    assert repr(line) == "<Line of 1: a=1+0, b=0+1>"
