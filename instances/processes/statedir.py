"""The state directory: one proxy at a time, readable by its owner only, nothing running in it from an earlier proxy."""

from pathlib import Path

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.instances.processes import records
from slotproxy.instances.processes.locks import FileLock, LockHeld


class StateDir:
    """Ours between `occupy` and `leave`."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # engines run elsewhere
        self._lock: FileLock | None = None

    def instance(self, number: int) -> Path:
        return self._path / "instances" / str(number)

    async def occupy(self) -> None:
        """Raises StartupError when another proxy uses it, ConfigurationError when nobody can."""
        path = self._path
        try:
            (path / "instances").mkdir(mode=0o700, parents=True, exist_ok=True)
            for private in (path, path / "instances"):  # KV files hold prompt text
                private.chmod(0o700)
            self._lock = FileLock.take(path / "slotproxy.lock")
        except LockHeld as error:
            sentence = (
                f"the state directory {path} is already used by {error.holder}; stop it or choose another --state-dir"
            )
            raise StartupError(sentence) from None
        except OSError as error:
            sentence = f"the state directory {path} cannot be used ({error.strerror}); choose another --state-dir"
            raise ConfigurationError(sentence) from None
        await records.end_leftovers(path / "instances")

    def leave(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
