"""The proxy one would write first: an aiohttp server, an aiohttp client, uvloop. `... plain_proxy PORT ENGINE_PORT`."""

import asyncio
import gc
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from tests.benchmarks.descriptors import raise_limit

NOT_PASSED = {"connection", "host", "keep-alive", "transfer-encoding"}


class Proxy:
    def __init__(self, session: ClientSession, engine: str) -> None:
        self._session = session
        self._engine = engine

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        url, body = self._engine + request.path_qs, await request.content.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_PASSED}
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in NOT_PASSED}
            if answer.content_length is not None:
                return web.Response(status=answer.status, headers=passed, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=passed)
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            return response


async def serve(port: int, engine: str) -> None:
    connector, timeout = TCPConnector(limit=0), ClientTimeout(total=None)
    async with ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        front = web.Server(Proxy(session, engine).handle, access_log=None)
        server = await asyncio.get_running_loop().create_server(front, "127.0.0.1", port, backlog=4096)
        gc.freeze()
        await server.serve_forever()


if __name__ == "__main__":
    raise_limit()
    uvloop.run(serve(int(sys.argv[1]), f"http://127.0.0.1:{sys.argv[2]}"))
