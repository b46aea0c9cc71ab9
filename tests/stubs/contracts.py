"""What each engine does towards a supervisor and a proxy, as its sources, its documentation and runs of it tell.

Written down apart from the profiles, so that a profile and what it claims of its engine can contradict each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Facts = Mapping[str, Any]  # "model", "name", "ctx", "host", "port", ...: what the engine was told
Document = Callable[[Facts], Any]


def _openai(**more: Document) -> Document:
    """A list of one model, with these facts of it."""
    return lambda facts: {
        "object": "list",
        "data": [{"id": facts["name"], "object": "model"} | {key: value(facts) for key, value in more.items()}],
    }


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One engine."""

    words: tuple[str, ...] = ()  # that its command line begins with; {model} is one that it takes
    flags: Mapping[str, str]  # option with a value -> what it says
    switches: frozenset[str] = frozenset()  # options without one
    variables: Mapping[str, str] = field(default_factory=dict)  # environment variable -> what it says
    pages: Mapping[str, Document]  # what a GET answers once the model is loaded
    early: frozenset[str] = frozenset()  # of these, what it answers before
    model: str = "gguf"  # what it can load: "gguf", "directory" or "name"
    lock: str | None = None  # variable that names the lock file it takes before anything else
    makes: str | None = None  # directory that it makes if it is not there
    needs: str | None = None  # directory that it wants to be there
    binds_last: bool = False  # its port opens when the model is loaded; else every path answers 503 until then
    loads_unasked: bool = True  # else at the first request
    banner: str = ""
    old_http: bool = False  # HTTP/1.0
    one_request: bool = False  # per connection
    measured_bodies_only: int | None = None  # refuses chunked requests with this status
    early_head: bool = False  # of a stream, before the prompt is read: an error then comes as an event
    cancels_unstreamed: bool = True
    stalls: float | None = None  # seconds after which it drops a client that does not read its stream
    waiting: int | None = None  # requests that may wait; None: any number
    full: tuple[int, Any] = (503, None)
    knows: tuple[str, ...] | None = None  # models a request may name, {name} the one served; None: it does not care
    error_404: Any = None
    finishes: str | None = None  # what it says when it has ended its work at SIGTERM; None: it just dies
    runner: bool = False  # a child of its own does the work
    version: str = ""  # options only some of its versions have, as --help prints them


LLAMA_PAGES: Mapping[str, Document] = {
    "/health": lambda facts: {"status": "ok"},
    "/v1/models": _openai(meta=lambda facts: {"n_ctx": -(-facts["ctx"] // 256) * 256, "n_ctx_train": 8192}),
    "/slots": lambda facts: [{"id": 0, "n_ctx": facts["ctx"], "is_processing": facts["busy"]}],
    "/props": lambda facts: {"total_slots": 1},
}
LLAMA_FLAGS = {
    "--model": "model", "--alias": "name", "--host": "host", "--port": "port", "--ctx-size": "ctx",
    "--parallel": "slots",
}  # fmt: skip

CONTRACTS: Mapping[str, Contract] = {
    "ds4-server": Contract(
        flags={"-m": "model", "--host": "host", "--port": "port", "-c": "ctx", "--kv-disk-dir": "kv"},
        pages={"/v1/models": _openai(context_length=lambda facts: facts["ctx"])},
        lock="DS4_LOCK_FILE",
        makes="kv",
        binds_last=True,
        banner="ds4-server: listening on http://{host}:{port}",
        one_request=True,
        measured_bodies_only=400,
        early_head=True,
        stalls=2.0,
        finishes="ds4-server: persisting current KV cache before shutdown",
    ),
    "llama-server": Contract(
        flags=LLAMA_FLAGS | {"--threads": "threads", "--cache-ram": "cache", "--sse-ping-interval": "ping"}
        | {"--load-mode": "load-mode", "--slot-save-path": "store"},
        switches=frozenset({"--metrics", "--no-repack", "--no-ui"}),
        pages=LLAMA_PAGES,
        needs="store",
        finishes="",
        version="--load-mode MODE --no-repack --no-ui --cache-ram N --sse-ping-interval N",
    ),
    "mlxcel-server": Contract(
        flags=LLAMA_FLAGS | {"--max-queue-depth": "queue", "--slot-save-path": "kv"},
        switches=frozenset({"--metrics"}),
        pages=LLAMA_PAGES,
        model="directory",
        waiting=1,
        full=(503, {"error": {"code": 503, "message": "server is busy", "type": "unavailable_error"}}),
        finishes="",
    ),
    "mlx_lm.server": Contract(
        flags={
            "--model": "model", "--host": "host", "--port": "port", "--decode-concurrency": "slots",
            "--prompt-concurrency": "prompts", "--prompt-cache-size": "caches",
        },
        pages={"/health": lambda facts: {"status": "ok"}},
        early=frozenset({"/health"}),
        model="directory",
        old_http=True,
        measured_bodies_only=411,
        cancels_unstreamed=False,
        knows=("default_model", "{model}"),
        error_404={"error": "another model would be loaded"},
    ),
    "ollama": Contract(
        words=("serve",),
        flags={},
        variables={"OLLAMA_HOST": "listen", "OLLAMA_CONTEXT_LENGTH": "ctx", "OLLAMA_NUM_PARALLEL": "slots",
                   "OLLAMA_MAX_QUEUE": "queue", "OLLAMA_NOPRUNE": "noprune", "OLLAMA_MODELS": "store"},
        pages={
            "/api/version": lambda facts: {"version": "0.33.0"},
            "/api/ps": lambda facts: {"models": [{"name": facts["name"], "context_length": facts["ctx"]}]},
        },
        early=frozenset({"/api/version"}),
        model="name",
        loads_unasked=False,
        waiting=1,
        full=(503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
        knows=("llama3.2:3b",),
        error_404={"error": {"message": "model 'x' not found", "type": "api_error"}},
        runner=True,
    ),
    "vllm": Contract(
        words=("serve", "{model}"),
        flags={"--served-model-name": "name", "--host": "host", "--port": "port", "--max-model-len": "ctx",
               "--max-num-seqs": "slots"},
        pages={"/health": lambda facts: None, "/v1/models": _openai(max_model_len=lambda facts: facts["ctx"])},
        model="directory",
        binds_last=True,
        knows=("{name}",),
        error_404={"error": {"message": "The model does not exist.", "type": "NotFoundError", "code": 404}},
        finishes="Application shutdown complete.",
    ),
    "tgi": Contract(
        flags={"--model-id": "model", "--hostname": "host", "--port": "port", "--prometheus-port": "port2",
               "--master-port": "port3", "--shard-uds-path": "sockets", "--max-concurrent-requests": "slots",
               "--max-total-tokens": "ctx", "--graceful-termination-timeout": "patience"},
        pages={"/health": lambda facts: None, "/info": lambda facts: {"max_total_tokens": facts["ctx"]},
               "/v1/models": _openai()},
        model="directory",
        binds_last=True,
        waiting=0,
        full=(429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        finishes="",
        runner=True,
    ),
    "tabbyapi": Contract(
        flags={"--host": "host", "--port": "port", "--disable-auth": "open", "--model-dir": "parent",
               "--model-name": "name", "--max-seq-len": "ctx", "--max-batch-size": "slots"},
        pages={"/health": lambda facts: {"status": "healthy", "issues": []},
               "/v1/model": lambda facts: {"id": facts["name"], "parameters": {"max_seq_len": facts["ctx"]}}},
        early=frozenset({"/health"}),
        model="parent",
        finishes="",
    ),
    "llamafile": Contract(
        flags={"-m": "model", "-l": "listen", "-s": "slots", "-c": "ctx", "--db": "db", "--trust": "trusted"},
        switches=frozenset({"--unsecure"}),
        pages={"/v1/models": _openai()},
        binds_last=True,
        finishes="",
    ),
}  # fmt: skip

EXECUTABLES = {"text-generation-launcher": "tgi", "llamafiler": "llamafile"}  # all others are called as they are named
