"""Why the supply side refuses or fails. Flat, one class per reason a caller tells apart."""


class InstanceError(Exception):
    """Base of everything the supply side raises on purpose; the message is one sentence for the user."""


class ConfigurationError(InstanceError):
    """Nothing was started: the user has to change something (exit code 2)."""


class StartupError(InstanceError):
    """The configuration is sound but this machine, now, cannot run it: lock held, port taken (exit code 1)."""


class ModelError(ConfigurationError):
    """The model file is missing, unreadable or not what its name says."""


class QueueFull(InstanceError):
    """Every slot is leased and the queue is at its limit."""


class ClientQueueFull(QueueFull):
    """Whoever asks has as many requests waiting as it may."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"this client has as many requests waiting as it may: {waiting}")
        self.waiting = waiting


class QueueTimeout(InstanceError):
    """No slot came free within the wait the caller allowed; what was still ahead is told as `line.Ahead` tells it."""

    def __init__(self, tickets: int = 0, tokens: float = 0.0) -> None:
        super().__init__("no slot came free in time")
        self.tickets = tickets
        self.tokens = tokens


class HeldBack(InstanceError):
    """No upstream takes a request within the time that the caller would wait; the message says why."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class NoInstances(InstanceError):
    """Every instance has failed for good; the message says why."""


class ShuttingDown(InstanceError):
    """The proxy is draining; nothing new is accepted."""


class NoSuchInstance(InstanceError):
    """Nothing that we started has this id."""


class OperationRefused(InstanceError):
    """What an operator asked for cannot be done now; the message says why."""
