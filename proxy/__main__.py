"""The `slotproxy` command: from a command line to an exit code.

0: stopped as asked. 1: it cannot run here and now. 2: what it was told cannot be done. 130: interrupted before that.
"""

import logging
import os
import sys
from collections.abc import Sequence

from slotproxy.instances.errors import ConfigurationError, InstanceError, StartupError
from slotproxy.proxy.config import Settings
from slotproxy.proxy.logs import printable, set_up, write_line
from slotproxy.proxy.sources import load

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `slotproxy` with `argv` (default: of this process); its exit code."""
    try:
        settings = load(sys.argv[1:] if argv is None else argv, os.environ)
        set_up(settings.log_format, settings.log_level)
        for sentence in settings.warnings():
            logger.warning("%s", sentence)
        _check_parser()
        return _serve(settings)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        logger.debug("the error below came from here", exc_info=True)
        return _refused(error)


def _serve(settings: Settings) -> int:
    import uvloop  # late, as is the server: --help and a wrong option are answered without loading either

    from slotproxy.proxy.server import model_of, serve

    model = model_of(settings)  # before the loop has the signals: Ctrl-C ends a download at once
    return uvloop.run(serve(settings, model))


def _check_parser() -> None:
    """aiohttp's parser in Python lets requests pass that its parser in C refuses, and smuggling with them."""
    from aiohttp import http_parser

    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise StartupError(
            "aiohttp was installed without its C extensions, which check requests: reinstall it from a wheel, "
            "and unset AIOHTTP_NO_EXTENSIONS"
        )


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
        sentence = f"a bug of slotproxy ended it: {type(error).__name__}: {error} (--log-level debug shows where)"
    write_line(f"slotproxy: {printable(sentence)}")
    return 2 if isinstance(error, ConfigurationError) else 1


if __name__ == "__main__":
    sys.exit(main())
