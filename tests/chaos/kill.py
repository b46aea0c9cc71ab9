"""`kill -9` of the proxy at random moments of its start, its service and its stop: `make chaos-kill`.

After each: no engine within two seconds, every lock free. That the next start works shows in the next round.
"""

import argparse
import fcntl
import json
import random
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slotproxy.instances.models import demo
from tests.chaos import observe
from tests.clients import chat, request
from tests.running import Running, fake_engines, real_engine

GONE = 2.0  # seconds within which no engine may be left
LOOKS = 6.0  # seconds for which is looked after that, so that the report can tell how late it was
MOMENTS = {"start": 1.5, "service": 0.4, "stop": 0.4}  # seconds from its beginning within which the proxy is killed
INSTANCES = 2


@dataclass(kw_only=True)
class Found:
    """Of all rounds."""

    killed: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0  # seconds until the last engine was gone
    problems: list[str] = field(default_factory=list)


class Round:
    """One proxy, from its start to its violent end."""

    def __init__(self, folder: Path, options: tuple[str, ...], found: Found) -> None:
        self._folder, self._options, self._found = folder, options, found
        self._mark = uuid.uuid4().hex

    def play(self, moment: str, dice: random.Random) -> None:
        env = observe.environment(self._mark, self._folder / "tasks.json")
        proxy = Running.start(self._folder, *self._options, env=env)
        try:
            with ExitStack() as exits:
                if moment != "start":
                    proxy.wait_ready(INSTANCES)
                    for _ in range(INSTANCES + 1):  # as many streams as there are slots, and one that waits
                        exits.enter_context(_stream(proxy.port))
                if moment == "stop":
                    proxy.process.send_signal(signal.SIGTERM)
                time.sleep(dice.uniform(0, MOMENTS[moment]))
                proxy.process.kill()
                proxy.wait()
            self._judge(moment)
        except AssertionError as error:
            self._found.problems.append(f"{moment}: {error}")
        finally:
            for process in observe.marked(self._mark):
                with suppress(psutil.Error):
                    process.kill()

    def _judge(self, moment: str) -> None:
        found = self._found
        found.killed[moment] += 1
        began = time.monotonic()
        while (left := observe.marked(self._mark)) and time.monotonic() - began < LOOKS:
            time.sleep(0.02)
        lasted = time.monotonic() - began
        found.slowest = max(found.slowest, lasted)
        if left:
            found.problems.append(f"{moment}: left: {left}")
        elif lasted > GONE:
            found.problems.append(f"{moment}: the last engine was gone after {lasted:.2f} s")
        held = [str(lock) for lock in self._folder.rglob("*.lock") if _is_held(lock)]
        if held:
            found.problems.append(f"{moment}: still locked: {held}")


def _stream(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    body = chat("Tell me a long story.", max_tokens=500, stream=True, fake={"events": 500, "gap": 0.02})
    client.sendall(request("POST", "/v1/chat/completions", body))
    return client


def _is_held(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def run(folder: Path, times: int, seed: int) -> dict[str, Found]:
    """By engine; they take turns, each in a state directory of its own that is never cleaned."""
    options = {}
    for name in ("fake", "real"):
        (folder / name).mkdir(parents=True)
    options["fake"] = fake_engines(folder / "fake", "--children", "1", instances=INSTANCES)
    options["real"] = real_engine(demo.fetch(), INSTANCES)
    found = {name: Found() for name in options}
    dice = random.Random(seed)
    for number in range(times):
        name = ("fake", "real")[number % 2]
        Round(folder / name, options[name], found[name]).play(dice.choice(list(MOMENTS)), dice)
    for name, one in found.items():
        last = Running.start(folder / name, *options[name])
        try:
            last.wait_ready(INSTANCES)
            if (code := last.stop()) != 0:
                one.problems.append(f"the last start ended with exit code {code}")
        except AssertionError as error:
            one.problems.append(f"the last start: {error}")
        finally:
            last.kill()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill", description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slotproxy-kill-") as scratch:
        found = run(Path(scratch), options.times, options.seed)
    figures = {
        name: {"killed": dict(one.killed), "last engine gone after s": round(one.slowest, 2), "problems": one.problems}
        for name, one in found.items()
    }
    print(json.dumps({"seed": options.seed, **figures}, indent=2))
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, **figures}, indent=2))
    return 1 if any(one.problems for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
