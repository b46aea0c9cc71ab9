"""`/slotproxy/api/instances`: the instances and upstreams, and an operator's wishes for them.

    GET    instances                 all of them
    POST   instances                 one instance more
    DELETE instances[/ID]            one less: the newest, or that one, once its requests have ended
    POST   instances[/ID]/restart    all in turn, or that one, once its requests have ended
    GET    instances/ID              one of them
    GET    instances/ID/log          the last lines of its engine

A change is answered with 202 when it has begun; the state document shows it happen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from aiohttp import web

from slotproxy.instances.errors import NoSuchInstance
from slotproxy.instances.snapshot import Snapshot
from slotproxy.proxy.operator.answers import as_json
from slotproxy.proxy.operator.document import Member
from slotproxy.proxy.operator.paths import API
from slotproxy.proxy.operator.state import member_of

ALL = API + "instances"
ONE = ALL + "/{id:(?!restart$)[^/]*}"  # "" is the id of none, not another page
RESTART_ALL = ALL + "/restart"
RESTART = ALL + "/{id:[^/]*}/restart"
LOG = ALL + "/{id:[^/]*}/log"


class Operations(Protocol):
    """What an operator may ask of the supply side. Each raises NoSuchInstance or OperationRefused."""

    def add(self) -> None: ...

    def remove(self, name: str | None = None) -> str:
        """Remove that instance, or the newest; its id."""
        ...

    def restart(self, name: str | None = None) -> None: ...

    def log(self, name: str) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """The pages of the instances."""

    snapshot: Callable[[], Snapshot]
    operations: Operations

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(ALL, self._all),
            web.post(ALL, self._add),
            web.delete(ALL, self._remove),
            web.post(RESTART_ALL, self._restart),
            web.get(ONE, self._one),
            web.delete(ONE, self._remove),
            web.post(RESTART, self._restart),
            web.get(LOG, self._log),
        ]

    def _members(self) -> list[Member]:
        now = monotonic()
        return [member_of(member, now) for member in self.snapshot().members]

    def _begun(self, message: str) -> web.Response:
        return as_json({"message": message, "instances": self._members()}, 202)

    async def _all(self, _request: web.Request) -> web.Response:
        return as_json(self._members())

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        found = next((member for member in self._members() if member.id == name), None)
        if found is None:
            raise NoSuchInstance(f"there is no instance {name!r}")
        return as_json(found)

    async def _add(self, _request: web.Request) -> web.Response:
        self.operations.add()
        return self._begun("an instance is being started")

    async def _remove(self, request: web.Request) -> web.Response:
        gone = self.operations.remove(request.match_info.get("id"))
        return self._begun(f"instance {gone} is removed when its requests have ended")

    async def _restart(self, request: web.Request) -> web.Response:
        name = request.match_info.get("id")
        self.operations.restart(name)
        which = "all instances are restarted in turn" if name is None else f"instance {name} is restarted"
        return self._begun(f"{which} when the requests have ended")

    async def _log(self, request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{line}\n" for line in self.operations.log(request.match_info["id"])))
