"""Whatever goes wrong in a handler is an error object; no answer names the library that sent it."""

import logging

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from pytest_aiohttp.plugin import AiohttpClient
from yarl import URL

from slotproxy.instances.errors import NoSuchInstance, OperationRefused
from slotproxy.proxy import errors
from slotproxy.proxy.operator.answers import as_json, name_server, query_of, refusing
from tests.proxy.operator.conftest import Asking, code_of


def failing(error: BaseException) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        raise error

    return handler


async def show_query(request: web.Request) -> web.Response:
    return as_json(query_of(request))


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> Asking:
    app = web.Application(middlewares=[refusing])
    app.on_response_prepare.append(name_server)
    app.router.add_get("/bug", failing(ZeroDivisionError("secret")))
    app.router.add_get("/full", failing(errors.queue_full(4, 7.0, 4)))
    app.router.add_get("/gone", failing(NoSuchInstance("there is no instance '9'")))
    app.router.add_get("/last", failing(OperationRefused("it is the last one")))
    app.router.add_get("/query", show_query)
    app.router.add_get("/{any}/log", show_query)
    return await aiohttp_client(app)


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("/full", 429, "queue_full", "All slots are busy and 4 requests are waiting already. Try again later."),
        ("/gone", 404, "no_such_instance", "There is no instance '9'."),
        ("/last", 409, "refused", "This cannot be done now: it is the last one."),
        ("/nothing", 404, "not_found", "There is nothing at /nothing."),
        ("/bug", 500, "internal_error", "The proxy failed. Its log says why."),
    ],
)
async def test_what_goes_wrong_is_an_error_object(
    client: Asking, path: str, status: int, code: str, message: str
) -> None:
    answer = await client.get(path)
    document = await answer.json()
    assert (answer.status, code_of(document), document["error"]["message"]) == (status, code, message)
    assert answer.content_type == "application/json"
    assert answer.headers["Server"] == "slotproxy"


async def test_the_fields_of_a_refusal_are_sent_with_it(client: Asking) -> None:
    assert (await client.get("/full")).headers["Retry-After"] == "7"


async def test_a_bug_is_logged_with_its_place_and_told_to_nobody_else(
    client: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = await client.get("/bug")
    assert "secret" not in await answer.text()
    (record,) = caplog.records
    assert record.getMessage() == "GET /bug failed: this is a bug of slotproxy"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert answer.headers["Connection"] == "close"


async def test_a_refusal_is_logged_nowhere_and_keeps_the_connection(
    client: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = await client.get("/gone")
    assert caplog.records == []
    assert "Connection" not in answer.headers


async def test_a_method_that_a_page_does_not_have_is_answered_with_those_it_has(client: Asking) -> None:
    answer = await client.post("/query")
    assert (answer.status, code_of(await answer.json())) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/x/lo%67", "/%78/log", "/x%2fy/log", "/quer%79", "/query%00", "/%c3%a4/log"])
async def test_a_path_that_decoding_would_change_is_nobodys(client: Asking, path: str) -> None:
    """Whoever decides about a request by the bytes of its path must not see another page than the router does."""
    answer = await client.get(URL(path, encoded=True))
    document = await answer.json()
    assert (answer.status, code_of(document)) == (404, "not_found")
    assert document["error"]["message"] == f"There is nothing at {path}."


async def test_a_query_is_left_as_it_came(client: Asking) -> None:
    assert await (await client.get(URL("/query?a=%41&b=?", encoded=True))).json() == "a=%41&b=?"
    assert await (await client.get("/query")).json() == ""
