"""The `slotproxy` command: from a command line to an exit code.

0: stopped as asked, or shown. 1: it cannot run here and now. 2: what it was told cannot be done. 130: interrupted
before that. 141: nobody reads what it shows.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from slotproxy.instances.errors import ConfigurationError, InstanceError
from slotproxy.proxy.accounts.logs import flush, printable, set_up, write_line
from slotproxy.proxy.options.commandline import Invocation
from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.sources import load, read

logger = logging.getLogger(__name__)

LAST_WORDS = 1.0  # seconds for somebody to read them, where the log is full


def main(argv: Sequence[str] | None = None) -> int:
    """Run `slotproxy` with `argv` (default: of this process); its exit code."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        flush(LAST_WORDS)


def _run(argv: Sequence[str]) -> int:
    try:
        invocation = read(argv, os.environ)
        settings = invocation.settings
        set_up(settings.log_format, settings.log_level)
        if invocation.command != "serve":
            return _show(invocation)
        for sentence in settings.warnings():
            logger.warning("%s", sentence)
        return _serve(settings, lambda: load(argv, os.environ))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        logger.debug("traceback of the error below", exc_info=True)
        return _refused(error)


def _show(invocation: Invocation) -> int:
    """Of the commands that print something and end each is loaded only if it is meant."""
    settings = invocation.settings
    try:
        if invocation.command == "plan":
            from slotproxy.proxy.commands import plan

            return plan.run(settings, as_json=invocation.json)
        from slotproxy.proxy.commands import engines

        return engines.run(settings, invocation.engine, as_json=invocation.json)
    except BrokenPipeError:  # as in `slotproxy plan | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush fails
        return 128 + signal.SIGPIPE


def _serve(settings: Settings, reread: Callable[[], Settings]) -> int:
    import uvloop  # late, as is the server: --help and a wrong option are answered without loading either

    from slotproxy.proxy.server import model_of, serve

    model = model_of(settings)  # before the loop has the signals: Ctrl-C ends a download at once
    return uvloop.run(serve(settings, model, reread))


def _refused(error: BaseException) -> int:
    """Say in one sentence why it ends; the exit code."""
    while isinstance(error, BaseExceptionGroup):  # what a task group makes of the errors in it
        error = error.exceptions[0]
    if isinstance(error, InstanceError):
        sentence = str(error)
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
        sentence = reason if error.filename is None else f"{error.filename}: {reason}"
    else:
        sentence = f"a bug of slotproxy: {type(error).__name__}: {error} (--log-level debug shows where)"
    write_line(f"slotproxy: {printable(sentence)}")
    return 2 if isinstance(error, ConfigurationError) else 1


if __name__ == "__main__":
    sys.exit(main())
