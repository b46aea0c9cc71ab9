"""The application: every page of the proxy's own, with the one place where what goes wrong becomes an answer."""

from collections.abc import Callable
from time import monotonic

from aiohttp import web

from slotproxy.instances.snapshot import Snapshot
from slotproxy.proxy.operator.answers import as_json, name_server, query_of, refusing
from slotproxy.proxy.operator.document import StateDocument, schema
from slotproxy.proxy.operator.evaluation import evaluate
from slotproxy.proxy.operator.events import Events
from slotproxy.proxy.operator.instances import Instances, Operations
from slotproxy.proxy.operator.pages import Pages
from slotproxy.proxy.operator.paths import API
from slotproxy.proxy.operator.state import state_of
from slotproxy.proxy.operator.stopping import Stopping


def application(
    *,
    snapshot: Callable[[], Snapshot],
    queued: Callable[[], int],
    page: Callable[[], bytes],
    operations: Operations,
    version: str,
    stopping: Stopping,
) -> web.Application:
    """`page` is the text of the metrics, `queued` how many requests wait for a slot. When the application is shut down
    `stopping` begins, if it has not before.
    """

    def state() -> StateDocument:
        return state_of(snapshot(), version=version, queued=queued(), now=monotonic())

    async def stop(_app: web.Application) -> None:
        stopping.begin()

    app = web.Application(middlewares=[refusing])
    app.on_response_prepare.append(name_server)
    app.on_shutdown.append(stop)
    app.add_routes(Pages(snapshot=snapshot, queued=queued, metrics=page, stopping=stopping).routes())
    app.add_routes(Instances(snapshot=snapshot, operations=operations).routes())
    app.add_routes(Events(state, stopping).routes())
    app.add_routes(_documents(state))
    return app


def _documents(state: Callable[[], StateDocument]) -> list[web.RouteDef]:
    """The state, what it consists of, and the evaluation of a number of slots."""

    async def show_state(_request: web.Request) -> web.Response:
        return as_json(state())

    async def show_schema(_request: web.Request) -> web.Response:
        return as_json(schema())

    async def show_evaluation(request: web.Request) -> web.Response:
        return as_json(evaluate(query_of(request)))

    return [
        web.get(API + "state", show_state),
        web.get(API + "schema", show_schema),
        web.get(API + "evaluate-parallel-slots", show_evaluation),
    ]
