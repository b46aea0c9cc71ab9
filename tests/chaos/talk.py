"""Plays one order at a proxy, in the manner of its client."""

import asyncio
import socket
import struct

from tests.chaos import verdicts
from tests.chaos.orders import LEAVES, Manner, Order
from tests.chaos.verdicts import Judged, Verdict
from tests.clients import Client, Head, Unframed, connected, request

PATIENCE = 90.0  # seconds within which every request must have come to some end
NEVER = (
    8.0  # seconds for which a client that never reads waits before it looks what came; the proxy cuts it off earlier
)
LITTLE = 8192  # bytes of a slow reader's buffer and of what it reads at a time


async def play(port: int, order: Order, never: float) -> Judged:
    """The verdict; this never raises and always ends.

    A client that never reads looks after `never` seconds what came: by then the proxy must have cut it off.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            if order.manner in LEAVES:
                return await _leave(port, order)
            if order.manner in (Manner.SLOW, Manner.NEVER_READS):
                return await _read_slowly(port, order, never)
            async with connected(port) as client:
                client.send(_bytes(order))
                return await _judge(client, order)
    except TimeoutError:
        return Judged(verdict=Verdict.HUNG, why=f"{order.name} ({order.manner.name}, {dict(order.headers)})")
    except OSError as error:
        return verdicts.unanswered(order, error)


def _bytes(order: Order, **more: str) -> bytes:
    headers = {"X-Request-Id": order.name} | dict(order.headers) | more
    return request("POST", "/v1/chat/completions", dict(order.body), headers)


async def _judge(client: Client, order: Order) -> Judged:
    try:
        head = await client.head()
    except (asyncio.IncompleteReadError, OSError, Unframed) as error:
        return verdicts.unanswered(order, error)
    try:
        return verdicts.whole(order, head, await _body(client, head))
    except Unframed as error:
        return verdicts.cut(order, head, error.body)
    except asyncio.IncompleteReadError as error:
        return verdicts.cut(order, head, error.partial)
    except OSError:
        return verdicts.cut(order, head, b"", reset=True)


async def _body(client: Client, head: Head) -> bytes:
    if head.get("transfer-encoding") == "chunked":
        return await client.rest()
    return await client.reader.readexactly(int(head["content-length"]))


async def _leave(port: int, order: Order) -> Judged:
    data = _bytes(order)
    in_head, in_body = data.index(b"\r\n\r\n") // 2, data.index(b"\r\n\r\n") + 10
    part = {Manner.LEAVES_IN_HEAD: in_head, Manner.LEAVES_IN_BODY: in_body}.get(order.manner, len(data))
    async with connected(port) as client:
        client.send(data[:part])
        if order.manner is not Manner.LEAVES_AT_ONCE:
            await asyncio.sleep(order.patience)
        if order.manner is Manner.HALF_CLOSES:
            client.writer.write_eof()
            await client.reader.read()  # the proxy takes it for leaving and closes
        elif order.manner is Manner.LEAVES_READING:
            try:
                head = await client.head()
                if order.stream and head.get("transfer-encoding") == "chunked":
                    for _ in range(order.events):
                        await client.next_event()
            except (asyncio.IncompleteReadError, OSError, Unframed, StopAsyncIteration):
                pass
        client.abort()
    return Judged(verdict=Verdict.LEFT, why=order.manner.value)


async def _read_slowly(port: int, order: Order, never: float) -> Judged:
    """With a small buffer of the system, so that it is the proxy that waits."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, _bytes(order, Connection="close"))
        if order.manner is Manner.NEVER_READS:
            await asyncio.sleep(never)
        try:
            while data := await loop.sock_recv(sock, LITTLE):
                reader.feed_data(data)
                if order.manner is Manner.SLOW:
                    await asyncio.sleep(order.patience / 100)
        except ConnectionError:
            pass
    reader.feed_eof()
    return await _judge(Client(reader, None), order)  # type: ignore[arg-type]  # nothing is written any more
