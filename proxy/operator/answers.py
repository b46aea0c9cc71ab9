"""Answers as `aiohttp.web` sends them: JSON, and refusals as error objects."""

import logging

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from slotproxy.instances.errors import NoSuchInstance, OperationRefused
from slotproxy.proxy import errors
from slotproxy.proxy.errors import Refusal
from slotproxy.proxy.operator.paths import MODEL

logger = logging.getLogger(__name__)

SERVER = "slotproxy"


def as_json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def path_of(request: web.BaseRequest) -> str:
    """The path as it came, nothing decoded."""
    return request.raw_path.partition("?")[0]


def query_of(request: web.BaseRequest) -> str:
    """What stands after `?`, as it came."""
    return request.raw_path.partition("?")[2]


@web.middleware
async def refusing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is answered with an error object."""
    path = path_of(request)
    try:
        # The router decodes, the gate did not: they could mean different pages. A model's name may be encoded: its page
        # reads it as it came.
        if path != request.path and not path.startswith(MODEL):
            raise errors.not_found(path)
        return await handler(request)
    except Exception as error:
        return _as_response(_refusal_of(error, request.method, path), path)


def _refusal_of(error: Exception, method: str, path: str) -> Refusal:
    match error:
        case Refusal():
            return error
        case NoSuchInstance():
            return errors.no_such_instance(str(error))
        case OperationRefused():
            return errors.refused(str(error))
        case web.HTTPNotFound():
            return errors.not_found(path)
        case web.HTTPMethodNotAllowed():
            return errors.method_not_allowed(", ".join(sorted(error.allowed_methods)))
    logger.error("%s %s failed: this is a bug of slotproxy", method, path, exc_info=error)
    return errors.internal()


def _as_response(refusal: Refusal, path: str) -> web.Response:
    response = web.Response(
        status=refusal.status, body=refusal.body(path), content_type="application/json", headers=dict(refusal.headers)
    )
    if refusal.close:
        response.force_close()
    return response


async def name_server(_request: web.Request, response: web.StreamResponse) -> None:
    """Send `Server: slotproxy`; aiohttp would name itself and its version."""
    response.headers[hdrs.SERVER] = SERVER
