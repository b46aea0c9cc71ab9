"""The places beside the slots."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from slotproxy.instances.slotless import Slotless
from slotproxy.instances.slots.beside import EACH, IN_ALL, Beside
from slotproxy.instances.slots.pool import NOBODY
from slotproxy.instances.upstream import Upstream


def upstream(name: str, *entries: str, overflow: bool = False) -> Upstream:
    return Upstream(instance=name, host="h", port=1, slotless=Slotless(entries or ["/x"]), overflow=overflow)


def beside_of(*members: Upstream) -> Beside:
    beside = Beside()
    for member in members:
        beside.offer(member)
    return beside


def taken(beside: Beside, held_back: Iterable[Upstream] = (), path: str = "/x") -> Upstream | None:
    member = beside.pick("GET", path, NOBODY, lambda it: 0 if it in held_back else 1)
    if member is not None:
        beside.take(member)
    return member


def test_a_member_has_no_more_than_its_share_and_all_no_more_than_theirs() -> None:
    members = [upstream(str(number)) for number in range(IN_ALL // EACH + 1)]
    one = beside_of(members[0])
    assert [taken(one) for _ in range(EACH + 1)] == [members[0]] * EACH + [None]
    beside = beside_of(*members)
    assert [taken(beside) is None for _ in range(IN_ALL + 1)] == [False] * IN_ALL + [True]
    assert {beside.out(member) for member in members} <= {IN_ALL // len(members), IN_ALL // len(members) + 1}
    beside.leave(members[0])
    assert taken(beside) is members[0]


def test_only_who_answers_such_a_request_is_asked() -> None:
    other, member = upstream("other", "/y"), upstream("member", "GET /x")
    beside = beside_of(other, member)
    assert beside.pick("GET", "/x", NOBODY, lambda it: 1) is member
    assert beside.pick("GET", "/x", {member}, lambda it: 1) is None
    assert beside.pick("POST", "/x", NOBODY, lambda it: 1) is None
    assert [beside.concerns("GET", "/x"), beside.concerns("POST", "/x"), beside.concerns("POST", "/y")] == [
        True, False, True,
    ]  # fmt: skip


def test_one_that_is_held_back_and_one_for_when_no_other_is_free_come_last() -> None:
    spare, member, other = upstream("spare", overflow=True), upstream("member"), upstream("other")
    beside = beside_of(spare, member, other)
    assert [taken(beside, [member]) for _ in range(3)] == [other] * 3
    beside.withdraw(other)
    assert taken(beside, [member]) is member
    beside.withdraw(member)
    assert taken(beside, [member]) is spare


def test_what_is_out_is_known_after_its_member_was_withdrawn_and_forgotten_when_it_is_back() -> None:
    member = upstream("member")
    beside = beside_of(member, member)
    assert [taken(beside), taken(beside)] == [member, member]
    beside.withdraw(member)
    assert not beside.concerns("GET", "/x")
    assert taken(beside) is None
    assert [beside.out(member), beside.leave(member), beside.leave(member), beside.out(member)] == [2, False, True, 0]


steps = st.lists(st.tuples(st.sampled_from(["take", "leave", "offer", "withdraw"]), st.integers(0, 5)), max_size=300)


@settings(deadline=None)
@given(steps)
def test_never_more_than_there_may_be_and_every_place_comes_back(steps: list[tuple[str, int]]) -> None:
    members = [upstream(str(number)) for number in range(6)]
    beside, out, here = Beside(), [0] * 6, set[int]()
    for what, number in steps:
        if what == "offer":
            here.add(number)
            beside.offer(members[number])
        elif what == "withdraw":
            here.discard(number)
            beside.withdraw(members[number])
        elif what == "leave" and out[number]:
            out[number] -= 1
            assert beside.leave(members[number]) is (out[number] == 0)
        elif what == "take":
            room = sum(out) < IN_ALL and any(out[it] < EACH for it in here)
            member = taken(beside)
            assert (member is not None) is room
            if member is not None:
                assert members.index(member) in here
                out[members.index(member)] += 1
        assert [beside.out(member) for member in members] == out
        assert beside.concerns("GET", "/x") is bool(here)
