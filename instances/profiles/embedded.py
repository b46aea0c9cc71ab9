"""llama.cpp's own HTTP server from the `xllamacpp` wheel, as a program of its own (`python -m`).

Options carry llama-server's names where llama-server has them. The weights are mapped and never repacked, so that
processes with the same model share its pages.
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once."""
    options = _parser().parse_args(argv)
    _die_with_parent()
    try:
        import xllamacpp  # here: --help and its errors need no engine
    except ImportError:
        print("embedded: the package xllamacpp is missing; install slotproxy[embedded]", file=sys.stderr)
        return 1
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, options))
    except (RuntimeError, OSError, ValueError) as error:
        print(f"embedded: {error}", file=sys.stderr)
        return 1
    print(f"embedded: listening on {server.listening_address}", file=sys.stderr, flush=True)
    _wait_for_signal()
    del server
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slotproxy.instances.profiles.embedded", allow_abbrev=False)
    add = parser.add_argument
    add("-m", "--model", required=True, help="GGUF file")
    add("-a", "--alias", help="name of the model in answers; default: the file's name")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8080, help="port to listen on")
    add("-c", "--ctx-size", type=int, default=4096, help="context in tokens; 0: all the model was trained for")
    add("-t", "--threads", type=int, default=os.cpu_count() or 1, help="threads that generate")
    add("-tb", "--threads-batch", type=int, help="threads that read prompts; default: as --threads")
    add("-np", "--parallel", type=int, default=1, help="slots")
    add("-b", "--batch-size", type=int, default=512, help="tokens read before a cancel is noticed")
    add("-ub", "--ubatch-size", type=int, default=512, help="tokens computed at once")
    add("-ngl", "--n-gpu-layers", type=int, help="layers on the GPU; default: the engine's choice")
    add("--slot-save-path", default="", help="existing directory for saved slots")
    add("--cache-ram", type=int, default=64, help="MiB of old prompts kept in memory")
    add("--sse-ping-interval", type=int, default=2, help="seconds between keep-alive comments of a silent stream")
    add("--metrics", action="store_true", help="serve /metrics")
    add("--embeddings", action="store_true", help="serve embeddings instead of completions")
    add("--no-warmup", action="store_true", help="skip the empty run after loading")
    return parser


def _parameters(xllamacpp: Any, options: argparse.Namespace) -> Any:
    """`CommonParams` of one server. `Any`: the wheel has no type information."""
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias or Path(options.model).stem}
    params.hostnames, params.port = [options.host], options.port
    params.n_ctx, params.n_parallel, params.kv_unified = options.ctx_size, options.parallel, False
    params.n_batch, params.n_ubatch = options.batch_size, min(options.ubatch_size, options.batch_size)
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads_batch or options.threads
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP
    params.no_extra_bufts = True  # a repacked copy of the weights would be private to each process
    params.fit_params = False  # it would size this engine by memory the next one needs
    params.cache_ram_mib = options.cache_ram
    if options.slot_save_path:
        params.slot_save_path = os.path.join(options.slot_save_path, "")  # the name of the file is put right behind it
    params.sse_ping_interval = options.sse_ping_interval
    params.endpoint_slots, params.endpoint_metrics, params.endpoint_props = True, options.metrics, False
    params.embedding, params.warmup, params.ui = options.embeddings, not options.no_warmup, False
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    return params


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
