"""Does what a stranger would install work? Usage: python scripts/smoke.py DIST

Takes the wheel from DIST, puts it with its pinned dependencies into an empty virtual environment in a temporary
directory, and lets the installed `slotproxy` answer one chat request of the demo model. Nothing of the source tree is
importable there.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parent.parent / "constraints-run.txt"
PATIENCE = 300.0  # seconds: the demo model may have to be fetched first
QUESTION = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
WHERE = "import slotproxy.proxy, slotproxy.instances; print(slotproxy.proxy.__file__, slotproxy.instances.__file__)"


def main() -> None:
    (wheel,) = Path(sys.argv[1]).resolve().glob("slotproxy-*.whl")
    with tempfile.TemporaryDirectory(prefix="slotproxy-smoke-") as place:
        install(wheel, Path(place))
        run(place, "bin/python", "-m", "pip", "check")
        for copy in run(place, "bin/python", "-c", WHERE).split():
            if not Path(copy).resolve().is_relative_to(Path(place).resolve()):
                sys.exit(f"smoke: {copy} was imported instead of the installed wheel")
        print(f"smoke: {run(place, 'bin/slotproxy', '--version')} from {wheel.name}")
        print(f"smoke: it answered {chat(place)!r} and stopped cleanly")


def install(wheel: Path, place: Path) -> None:
    venv.create(place / "venv", with_pip=True)
    pip = ("bin/python", "-m", "pip", "install", "--quiet", "--no-deps")
    run(str(place), *pip, "--require-hashes", "--requirement", str(PINS))
    run(str(place), *pip, str(wheel))


def run(place: str, program: str, *arguments: str) -> str:
    """What a program of the environment prints. Ends the smoke test if it fails."""
    command = [f"{place}/venv/{program}", *arguments]
    done = subprocess.run(command, cwd=place, env=surroundings(), text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"smoke: {program} {' '.join(arguments)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def surroundings() -> dict[str, str]:
    """The environment without what could lead Python back into the source tree or change slotproxy's settings."""
    leads = ("PYTHON", "SLOTPROXY_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(leads)}


def chat(place: str) -> str:
    """The answer of the installed proxy to one request; then its clean stop."""
    log = Path(place, "log")
    options = ("--model", "demo", "--instances", "1", "--port", "0", "--state-dir", f"{place}/state")
    with log.open("wb") as output:
        command = [f"{place}/venv/bin/slotproxy", *options]
        proxy = subprocess.Popen(command, cwd=place, env=surroundings(), stdout=output, stderr=output)
    try:
        answer = ask(until_listening(proxy, log))
    except OSError as error:
        sys.exit(f"smoke: {error}; its log:\n{log.read_text()}")
    finally:
        status = stop(proxy)
    if status:
        sys.exit(f"smoke: slotproxy ended with status {status}; its log:\n{log.read_text()}")
    return answer


def stop(proxy: "subprocess.Popen[bytes]") -> int:
    """Its exit status after SIGTERM; -9 if it did not end by itself."""
    proxy.terminate()
    try:
        return proxy.wait(timeout=30)
    except subprocess.TimeoutExpired:
        proxy.kill()
        return proxy.wait()


def until_listening(proxy: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address the proxy says it listens on."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and proxy.poll() is None:
        if found := re.search(r"listening on (http://\S+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise TimeoutError("slotproxy does not listen")


def ask(address: str) -> str:
    """What the model says. A request that comes before the engine is ready waits in the proxy's queue."""
    content_type = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(QUESTION).encode(), content_type)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says, this is loopback
    try:
        with direct.open(request, timeout=PATIENCE) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        raise OSError(f"slotproxy answered {error.code}: {error.read().decode()}") from error
    content: str = answer["choices"][0]["message"]["content"]
    if not content:
        raise OSError(f"slotproxy answered without a word: {answer}")
    return content


if __name__ == "__main__":
    main()
