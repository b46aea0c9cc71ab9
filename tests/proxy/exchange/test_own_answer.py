from slotproxy.proxy.errors import Refusal
from slotproxy.proxy.exchange.own_answer import empty_bytes, refusal_bytes

REFUSAL = Refusal(429, "busy", "Later.", headers={"Retry-After": "5"})


def test_a_refusal_is_a_whole_answer_with_its_own_fields() -> None:
    answer = refusal_bytes(REFUSAL, "/v1/x", "id-1", own=b"X-Own: 1\r\n", keep_alive=True)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    for line in (b"x-request-id: id-1", b"Retry-After: 5", b"X-Own: 1", b"Content-Length: %d" % len(body)):
        assert line in head.split(b"\r\n")
    assert body == REFUSAL.body("/v1/x")
    assert b"Connection" not in head


def test_a_connection_that_ends_is_told_so_and_an_old_client_that_it_goes_on() -> None:
    assert b"\r\nConnection: close\r\n" in refusal_bytes(REFUSAL, "", "1")
    assert b"\r\nConnection: keep-alive\r\n" in refusal_bytes(REFUSAL, "", "1", keep_alive=True, http11=False)


def test_the_answer_to_head_has_the_length_and_not_the_body() -> None:
    whole = refusal_bytes(REFUSAL, "", "1")
    assert refusal_bytes(REFUSAL, "", "1", head_only=True) == whole[: whole.index(b"\r\n\r\n") + 4]


def test_an_answer_without_a_body_has_no_length() -> None:
    answer = empty_bytes(204, {"X-A": "1"}, "id-1", keep_alive=True, http11=True)
    assert answer.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert answer.endswith(b"X-A: 1\r\n\r\n")
    assert b"Content-Length" not in answer
