"""Our own requests to an engine: readiness, warm-up, context, models, idleness."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp

from slotproxy.instances.profiles.profile import Context, Idle, Ready, WarmUp
from slotproxy.instances.upstream import VIA, Field, Upstream

TIMEOUT = 5.0  # seconds for everything that is not a generation
LARGEST = 4 << 20  # bytes of an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes

    def document(self) -> Any:
        """The body as JSON; None when it is not."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Probe:
    """One client session for all of them. No proxies, no redirects, no cookies, a connection per request."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Probe":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(
        self, upstream: Upstream, path: str, *, body: Any = None, timeout: float | None = None
    ) -> Answer | None:
        """GET `path`, or POST `body` as JSON to it. None when nothing sensible came back in time."""
        if self._session is None:
            return None
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                _url(upstream, path),
                json=body,
                headers={name.decode(): value.decode() for name, value in _fields(upstream)},
                timeout=aiohttp.ClientTimeout(total=timeout or TIMEOUT),
                allow_redirects=False,
            ) as response:
                return Answer(status=response.status, body=await _bounded(response))
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def lines(self, upstream: Upstream, path: str, body: Any, timeout: float) -> AsyncIterator[bytes]:
        """POST `body` as JSON and yield the lines of the answer as they come; none if it is no success."""
        if self._session is None:
            return
        try:
            async with self._session.post(
                _url(upstream, path),
                json=body,
                headers={name.decode(): value.decode() for name, value in _fields(upstream)},
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
            ) as response:
                if response.status < 300:
                    async for line in response.content:
                        yield line
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):  # ValueError: a line without an end
            return

    async def listens(self, upstream: Upstream) -> bool:
        """Whether its port takes a connection; nothing is sent."""
        try:
            async with asyncio.timeout(TIMEOUT):
                _, writer = await asyncio.open_connection(upstream.host, upstream.port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    async def certificate_error(self, upstream: Upstream) -> str | None:
        """Why the certificate of a TLS server is not believed; None when it is, or when nothing can be said."""
        try:
            async with asyncio.timeout(TIMEOUT):
                where = (upstream.host, upstream.port)
                _, writer = await asyncio.open_connection(*where, ssl=ssl.create_default_context())
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except (OSError, TimeoutError):
            return None
        writer.transport.abort()
        return None

    async def ready(self, upstream: Upstream, ready: Ready) -> bool:
        """Whether the profile's readiness path answers as it should; True where it has none."""
        if ready.path is None:
            return True
        answer = await self.ask(upstream, ready.path)
        return answer is not None and answer.status == ready.status

    async def warm_up(self, upstream: Upstream, warm_up: WarmUp, body: Any) -> str | None:
        """Generate once; None when that went well, else what came instead."""
        answer = await self.ask(upstream, warm_up.path, body=body, timeout=warm_up.timeout)
        if answer is None:
            return f"no answer within {warm_up.timeout:g} s"
        if answer.status >= 300 or not answer.body:
            return f"status {answer.status}, {answer.body[:200].decode(errors='replace') or 'empty'}"
        return None

    async def context(self, upstream: Upstream, context: Context) -> int | None:
        """Tokens one slot takes; None when the engine does not say."""
        if context.path is None:
            return None
        answer = await self.ask(upstream, context.path)
        found = answer and resolve(answer.document(), context.pointer)
        return found if isinstance(found, int) and found > 0 else None

    async def models(self, upstream: Upstream, path: str) -> tuple[Mapping[str, Any], ...]:
        """The engine's model objects as it lists them; none where `path` is empty."""
        answer = await self.ask(upstream, path) if path else None
        listed = answer and resolve(answer.document(), "/data")
        return tuple(model for model in listed if isinstance(model, dict)) if isinstance(listed, list) else ()

    async def idle(self, upstream: Upstream, idle: Idle, *, streamed: bool, warm_up: WarmUp, body: Any) -> bool:
        """Return once the engine has let go of an abandoned request; False when it has not within the limit."""
        await asyncio.sleep(idle.first if streamed else idle.first_unstreamed)
        if idle.kind == "delay":
            return True
        try:
            async with asyncio.timeout(idle.limit):
                while not await self._has_let_go(upstream, idle, warm_up, body):  # noqa: ASYNC110  it has no events
                    await asyncio.sleep(idle.every)
        except TimeoutError:
            return False
        return True

    async def _has_let_go(self, upstream: Upstream, idle: Idle, warm_up: WarmUp, body: Any) -> bool:
        if idle.kind == "slots":
            return await self._nothing_processing(upstream, idle.path)
        # Engines with a bound on waiting requests refuse one while they are busy: only an answer counts.
        answer = await self.ask(upstream, warm_up.path, body=body, timeout=idle.limit)
        return answer is not None and answer.status < 300

    async def _nothing_processing(self, upstream: Upstream, path: str) -> bool:
        answer = await self.ask(upstream, path)
        slots = None if answer is None else answer.document()
        return isinstance(slots, list) and not any(
            not isinstance(slot, dict) or slot.get("is_processing", True) for slot in slots
        )


def resolve(document: Any, pointer: str) -> Any:
    """What the JSON pointer names in `document`; None when there is nothing."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list) and key.isdigit() and int(key) < len(document):
            document = document[int(key)]
        elif isinstance(document, dict):
            document = document.get(key)
        else:
            return None
    return document


def _url(upstream: Upstream, path: str) -> str:
    scheme = "https" if upstream.tls else "http"
    return f"{scheme}://{upstream.authority}{upstream.target(path.encode()).decode()}"


def _fields(upstream: Upstream) -> tuple[Field, ...]:
    via = ((VIA, upstream.via),) if upstream.via else ()
    return (*upstream.extra_headers, *upstream.default_headers, *via)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > LARGEST:
            raise aiohttp.ClientPayloadError("the answer is too large")
    return bytes(body)
