"""What every test may ask for: the demo model, and the installed command as a process that leaves nothing behind."""

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest
import uvloop

from slotproxy.instances.models import demo
from tests.running import Running, StartProxy


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of the product: its transports differ from the standard library's in small things."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Some tests send what is no UTF-8, and logs quote it; between processes reports travel as UTF-8."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The small real model, fetched once per machine."""
    return demo.fetch()


@pytest.fixture(scope="session")
def proxy(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One proxy with two real instances, for every test that only sends requests and leaves no slot busy."""
    folder = tmp_path_factory.mktemp("shared")
    running = Running.start(folder, "--model", str(demo_model), "--instances", "2", "--ctx-size", "2048")
    try:
        yield running.wait_ready(2)
        assert running.stop() == 0, running.log
    finally:
        running.kill()


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[StartProxy]:
    """Starts proxies of this test's own: `start_proxy("--instances", "1", ...)`. Those still running at the end are
    stopped, must say goodbye with exit code 0 and leave nothing behind.
    """
    started: list[Running] = []

    def start(
        *options: str, env: dict[str, str] | None = None, folder: Path = tmp_path, through: Sequence[str] = ()
    ) -> Running:
        started.append(Running.start(folder, *options, env=env, through=through))
        return started[-1]

    try:
        yield start
        for running in started:
            if running.process.poll() is None:
                assert running.stop() == 0, running.log
    finally:
        for running in started:
            running.kill()
