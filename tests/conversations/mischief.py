"""What is done to a slotproxy, its engines and its store of conversations between turns."""

import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

import psutil

from tests.conversations.sites import Proxy
from tests.conversations.talk import Client

FILLER = ".filler"
PIECE = 1 << 20


class Fault(Enum):
    """`SCRIBBLE` keeps a file's size and changes bytes in its midst; nobody has promised to notice that."""

    KILL = "kill -9"
    RESTART = "restart"
    ROLL = "rolling restart"
    TRUNCATE = "truncated file"
    FOREIGN = "foreign file"
    SWAP = "another's file"
    DELETE = "file removed"
    FULL = "full disk"
    SCRIBBLE = "changed bytes"


USUAL = tuple(fault for fault in Fault if fault is not Fault.SCRIBBLE)


class Disk:
    """Where the store lies. `small`: a file system of its own, which can be filled; else it is made unwritable."""

    def __init__(self, folder: Path, *, small: bool) -> None:
        self.folder, self.small = folder, small
        self.full = False

    def fill(self) -> bool:
        """False: not possible here."""
        if self.full:
            return True
        if self.small:
            with suppress(OSError), (self.folder / FILLER).open("wb", buffering=0) as filler:
                while filler.write(bytes(PIECE)) == PIECE:
                    pass
            self.full = True
        elif self.folder.is_dir() and os.geteuid():  # root writes everywhere
            self.folder.chmod(0o500)
            self.full = True
        return self.full

    def empty(self) -> None:
        if self.full and self.small:
            (self.folder / FILLER).unlink(missing_ok=True)
        elif self.full:
            self.folder.chmod(0o700)
        self.full = False

    def files(self) -> list[Path]:
        """The saved conversations."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != FILLER)


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Disk]:
    """A tmpfs of so many bytes at `folder` where one may be mounted; gone at the end."""
    folder.mkdir(mode=0o700, parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "slotproxy-conversations", str(folder)]
    small = (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    found = Disk(folder, small=small)
    try:
        yield found
    finally:
        found.empty()
        if small:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


class Mischief:
    """Faults at random. `done` counts those that had something to hit, `missed` the others."""

    def __init__(self, proxy: Proxy, client: Client, store: Disk, chance: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self._proxy, self._client, self._store, self._chance = proxy, client, store, chance

    async def inject(self, fault: Fault) -> None:
        count = self.done if await self._apply(fault) else self.missed
        count[fault.value] += 1

    async def _apply(self, fault: Fault) -> bool:
        match fault:
            case Fault.KILL:
                return await self._kill()
            case Fault.RESTART | Fault.ROLL:
                return await self._restart(fault)
            case Fault.FULL:
                return self._store.fill()
            case _:
                return self._spoil(FILES[fault])

    async def slots(self) -> "list[dict[str, object]]":
        found: list[dict[str, object]] = await self._client.json("GET", "/slots", None, **self._key())
        return found

    async def bring_back(self) -> None:
        """What an operator would do with an instance that was given up."""
        for slot in await self.slots():
            if slot["state"] == "failed":
                await self._post(f"/{slot['instance']}/restart")

    async def _kill(self) -> bool:
        pids = [slot["pid"] for slot in await self.slots() if slot["state"] == "ready" and slot["pid"] is not None]
        if not pids:
            return False
        with suppress(psutil.Error):
            psutil.Process(int(str(self._chance.choice(pids)))).send_signal(signal.SIGKILL)
        return True

    async def _restart(self, fault: Fault) -> bool:
        names = [slot["instance"] for slot in await self.slots() if slot["state"] == "ready"]
        if not names:
            return False
        await self._post("/restart" if fault is Fault.ROLL else f"/{self._chance.choice(names)}/restart")
        return True

    async def _post(self, path: str) -> None:
        await self._client.json("POST", f"/slotproxy/api/instances{path}", {}, **self._key())

    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._proxy.key}"}

    def _spoil(self, spoil: "Callable[[random.Random, list[Path]], None]") -> bool:
        files = self._store.files()
        if not files:
            return False
        with suppress(OSError):  # it has gone meanwhile, or the disk is full
            spoil(self._chance, files)
        return True


def _truncate(chance: random.Random, files: list[Path]) -> None:
    path = chance.choice(files)
    os.truncate(path, chance.randrange(path.stat().st_size or 1))


def _foreign(chance: random.Random, files: list[Path]) -> None:
    """Under the name of a saved conversation, or beside it."""
    path = chance.choice(files)
    path.with_name(chance.choice([path.name, f"{path.name}x", "notes.txt"])).write_bytes(chance.randbytes(1 << 14))


def _swap(chance: random.Random, files: list[Path]) -> None:
    one, other = chance.choice(files), chance.choice(files)
    if one != other:
        shutil.copyfile(one, other)


def _delete(chance: random.Random, files: list[Path]) -> None:
    chance.choice(files).unlink()


def _scribble(chance: random.Random, files: list[Path]) -> None:
    path = chance.choice(files)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(chance.randbytes(1 << 12))


FILES: dict[Fault, Callable[[random.Random, list[Path]], None]] = {
    Fault.TRUNCATE: _truncate,
    Fault.FOREIGN: _foreign,
    Fault.SWAP: _swap,
    Fault.DELETE: _delete,
    Fault.SCRIBBLE: _scribble,
}
