from slotproxy.instances.slots.claim import NO_PREFIX, Claim, Prefix, Priority


def test_a_prompt_is_as_large_as_its_last_block_ends() -> None:
    assert Prefix(numbers=(7, 8), ends=(100, 401)).size == 401
    assert NO_PREFIX.size == 0


def test_four_bytes_are_taken_for_a_token() -> None:
    assert Claim(prefix=Prefix(numbers=(7,), ends=(403,))).expected_prefill == 100
    assert Claim().expected_prefill == 0


def test_a_claim_that_says_nothing_is_an_ordinary_one() -> None:
    assert Claim() == Claim(principal="", priority=Priority.INTERACTIVE, session=None, session_is_weak=False)
