"""What a proxy costs: CPU and memory of a process and all its descendants."""

from pathlib import Path

import psutil


class Family:
    """A process and its descendants, as they are when asked."""

    def __init__(self, pid: int) -> None:
        self._first = psutil.Process(pid)

    def _members(self) -> list[psutil.Process]:
        return [self._first, *self._first.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds of CPU that its members have used, in user and kernel mode."""
        return sum(_cpu(member) for member in self._members())

    def resident(self) -> int:
        """Bytes; pages its members share count once for each."""
        return sum(member.memory_info().rss for member in self._members())


def _cpu(process: psutil.Process) -> float:
    """From the scheduler, which counts nanoseconds, where the kernel tells; else in clock ticks of 10 ms."""
    try:
        threads = list(Path(f"/proc/{process.pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        times = process.cpu_times()
        return times.user + times.system
