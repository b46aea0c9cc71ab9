"""Every option of slotproxy, declared once.

A field of `Settings` is an option: its name, how its value is written, its default and its help stand there and nowhere
else. The command line, the `SLOTPROXY_` variables, the keys of the file (`sources`), `--help` and the table that
`python -m slotproxy.proxy.options.config` prints for docs/options.md all follow from it.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from platformdirs import user_state_path

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.forecast.parallel_slots import evaluate_parallel_slots
from slotproxy.instances.settings import METRICS, MemoryLimit, SupplySettings, UpstreamSpec
from slotproxy.instances.slots.routing import POLICIES
from slotproxy.proxy.options import key_file
from slotproxy.proxy.options.key_file import LabelledKey
from slotproxy.proxy.options.option import option, table
from slotproxy.proxy.options.values import (
    FLAG,
    INSTANCES,
    KEY,
    MEMORY_LIMIT,
    ORIGIN,
    PATH,
    SHARE,
    SIZE,
    SIZE_OR_ZERO,
    SWITCH,
    TEXT,
    TIME,
    TIME_OR_ZERO,
    UPSTREAM,
    choice,
    number,
)

DEMO = "demo"
EIGHTY_PERCENT = MemoryLimit(percent=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One proxy as its user wants it. Times are seconds, sizes bytes."""

    model: Annotated[
        str | None,
        option(
            TEXT,
            "Model file or directory; demo is a small real model, fetched once. With --upstream and without --model no "
            "engine is started here.",
            metavar="PATH",
            unset=DEMO,
            plan=True,
        ),
    ] = None
    engine: Annotated[
        str,
        option(
            TEXT,
            "Engine profile: a name or the path of a profile file; auto picks by model.",
            metavar="NAME|PATH",
            plan=True,
        ),
    ] = "auto"
    engine_bin: Annotated[
        str | None,
        option(TEXT, "The engine's executable.", metavar="PATH", unset="the profile's, from PATH", plan=True),
    ] = None
    instances: Annotated[
        int | None,
        option(INSTANCES, "Engine processes to run; auto measures how many fit into memory.", unset="auto", plan=True),
    ] = None
    max_instances: Annotated[int, option(number(1), "Upper bound of --instances auto.", plan=True)] = 8
    ctx_size: Annotated[
        int | None,
        option(number(512), "Context of each instance, in tokens.", metavar="TOKENS", unset="the profile's", plan=True),
    ] = None
    memory_limit: Annotated[
        MemoryLimit,
        option(
            MEMORY_LIMIT, "Memory all engines together may use: a percentage of the machine's, or a size.", plan=True
        ),
    ] = EIGHTY_PERCENT
    memory_metric: Annotated[
        str,
        option(
            choice(METRICS),
            "Memory that --memory-limit counts: resident, wired (macOS), or that of NVIDIA GPUs (vram); auto: what the "
            "engine uses.",
            plan=True,
        ),
    ] = "auto"
    min_gain: Annotated[
        float,
        option(
            SHARE,
            "Smallest gain in tokens per second, of all instances together, for which auto keeps one more; 0%: memory "
            "alone decides.",
            plan=True,
        ),
    ] = 0.05
    recalibrate: Annotated[
        bool, option(FLAG, "Let auto measure again instead of using what an earlier start found out.", plan=True)
    ] = False
    upstream: Annotated[
        tuple[UpstreamSpec, ...],
        option(
            UPSTREAM,
            "A server that runs elsewhere, used like an instance; slots: requests at a time (1); key-env: environment "
            "variable that holds its API key; overflow: used only when nothing else has a free slot; model: the name "
            "of the model there, put into every request; api: how its key is sent (api.anthropic.com: anthropic, "
            "others: openai).",
            unset="none",
            many=True,
        ),
    ] = ()
    host: Annotated[
        str, option(TEXT, "Address to listen on, or a name: all addresses of a name.", metavar="ADDRESS")
    ] = "127.0.0.1"
    port: Annotated[int, option(number(0, 65535), "Port to listen on; 0 picks a free one.", metavar="PORT")] = 8080
    state_dir: Annotated[
        Path | None,
        option(
            PATH,
            "Directory of locks, engine logs and KV caches; needed where the user has no home directory.",
            unset="the platform's state directory",
            plan=True,
        ),
    ] = field(default_factory=lambda: _default_state_dir())
    routing: Annotated[str, option(choice(POLICIES), "How an instance is chosen among those with a free slot.")] = (
        "least-busy"
    )
    affinity: Annotated[
        str,
        option(
            SWITCH,
            "Prefer the instance that has a conversation's beginning computed, and hand what is computed over to "
            "others.",
        ),
    ] = "on"
    kv_store_limit: Annotated[
        int | None,
        option(
            SIZE_OR_ZERO,
            "Disk for saved conversations, which any instance can go on with as if it had computed them; 0: none are "
            "saved.",
            unset="a tenth of the free disk, at most 8GiB",
        ),
    ] = None
    kv_keep: Annotated[
        bool, option(FLAG, "Keep saved conversations for the next start instead of deleting them at a stop.")
    ] = False
    kv_share: Annotated[
        str,
        option(
            SWITCH,
            "Let a client begin with what others have computed, where two have sent that beginning themselves; how "
            "soon its answer comes then tells that somebody did.",
        ),
    ] = "on"
    queue_limit: Annotated[int, option(number(0), "Requests that may wait for a slot.")] = 64
    queue_per_client: Annotated[
        int | None,
        option(number(1), "Requests of one client (its key, without keys its address) that may wait.", unset="none"),
    ] = None
    queue_timeout: Annotated[float, option(TIME_OR_ZERO, "Longest wait for a slot.")] = 60.0
    prefill_timeout: Annotated[float, option(TIME, "Longest wait for the first byte of an answer.")] = 1800.0
    stall_timeout: Annotated[float, option(TIME, "Longest silence between bytes of a stream.")] = 60.0
    sse_ping: Annotated[
        float | None,
        option(
            TIME,
            "Send clients that asked for a stream a comment so often until their answer begins. Their status is 200 "
            "then, whatever comes: errors are events.",
            unset="off",
        ),
    ] = None
    drain_timeout: Annotated[float, option(TIME_OR_ZERO, "How long a stop waits for requests in flight.")] = 60.0
    max_body: Annotated[int, option(SIZE, "Largest request body.")] = 64 << 20
    api_key: Annotated[
        tuple[str, ...],
        option(
            KEY,
            "API key that requests must carry. Other users can read a command line: --api-key-file is safer.",
            unset="none",
            many=True,
            secret=True,
        ),
    ] = field(default=(), repr=False)
    api_key_file: Annotated[
        Path | None, option(PATH, "File of keys, one per line: KEY or LABEL: KEY; # begins a comment.", unset="none")
    ] = None
    cors_origin: Annotated[
        tuple[str, ...],
        option(ORIGIN, "Web origin whose pages may use this server; * is any.", unset="none", many=True),
    ] = ()
    tls_cert: Annotated[Path | None, option(PATH, "Certificate chain (PEM); clients then use https.", unset="none")] = (
        None
    )
    tls_key: Annotated[Path | None, option(PATH, "Private key of --tls-cert (PEM).", unset="none")] = None
    log_format: Annotated[str, option(choice(("text", "json")), "Form of the log on stderr.")] = "text"
    log_level: Annotated[
        str, option(choice(("debug", "info", "warning", "error")), "Least important kind of line to log.")
    ] = "info"
    config: Annotated[Path | None, option(PATH, "TOML file with options by these names.", unset="none", plan=True)] = (
        None
    )
    engine_args: Annotated[
        tuple[str, ...],
        option(
            TEXT,
            "Arguments for every engine; on the command line: what follows --.",
            unset="none",
            many=True,
            tail=True,
            plan=True,
        ),
    ] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.model is None and not self.upstream:
            object.__setattr__(self, "model", DEMO)

    @property
    def local(self) -> bool:
        """Whether engines are started here; without, `model` is None and there are only upstreams."""
        return self.model is not None

    @property
    def model_path(self) -> Path:
        """Only for a local model that is not the demo model."""
        return Path(os.path.expanduser(self.model or ""))

    @property
    def state_path(self) -> Path:
        """Where locks, engine logs and KV caches are. Raises ConfigurationError where that is not known."""
        if self.state_dir is None:
            raise ConfigurationError(
                "this user has no home directory for locks, engine logs and KV caches: give --state-dir"
            )
        return self.state_dir

    def keys(self) -> tuple[str, ...]:
        """The keys of --api-key and --api-key-file; reads the file. Raises ConfigurationError."""
        return tuple(one.key for one in self.labelled_keys())

    def labelled_keys(self) -> tuple[LabelledKey, ...]:
        """The same, each with the label by which it may be spoken of: its own, or `key-` and its place among all."""
        given = [LabelledKey("", key) for key in self.api_key]
        given += key_file.read(self.api_key_file) if self.api_key_file is not None else []
        return tuple(one._replace(label=one.label or f"key-{place}") for place, one in enumerate(given, start=1))

    def weights(self) -> dict[str, float]:
        """Of the service, by label, of those who have more or less than others. Raises ConfigurationError."""
        return {one.label: one.weight for one in self.labelled_keys() if one.weight != 1.0}

    def check(self, environ: Mapping[str, str]) -> None:
        """Raises ConfigurationError where options that are sound alone do not go together, or with this machine."""
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("--tls-cert", "--tls-key") if self.tls_cert is not None else ("--tls-key", "--tls-cert")
            raise ConfigurationError(f"{given} needs {missing} too: TLS takes both, or neither")
        for upstream in self.upstream:
            if upstream.key_env is not None and not environ.get(upstream.key_env):
                raise ConfigurationError(
                    f"--upstream {upstream.url}: the environment variable {upstream.key_env} is not set"
                )
        self.keys()

    def warnings(self) -> Iterator[str]:
        """Sentences about values that are allowed and seldom meant."""
        small = evaluate_parallel_slots(1, self.ctx_size)  # an instance has one slot, and that all of its context
        if small.warning is not None:
            yield f"--ctx-size {self.ctx_size} is small: {small.message}"
        many = evaluate_parallel_slots(self.instances or 1, None, maximum=self.max_instances)
        if many.warning is not None:
            yield f"--instances {many.requested} is more than --max-instances {self.max_instances}: all are started"
        if self.api_key_file is not None and key_file.is_open_to_all(self.api_key_file):
            yield f"--api-key-file {self.api_key_file} can be read by every user of this machine: chmod 600 helps"

    def supply(self, model: Path | None) -> SupplySettings:
        """What the supply side is told. `model`: where the model was found; None: no local instances.

        Raises ConfigurationError where there is no state directory.
        """
        return SupplySettings(
            model=model,
            engine=self.engine,
            engine_bin=self.engine_bin,
            engine_args=self.engine_args,
            instances=self.instances,
            max_instances=self.max_instances,
            ctx_size=self.ctx_size,
            memory_limit=self.memory_limit,
            memory_metric=self.memory_metric,
            min_gain=self.min_gain,
            recalibrate=self.recalibrate,
            upstreams=self.upstream,
            state_dir=self.state_path,
            drain_timeout=self.drain_timeout,
            affinity=self.affinity == "on",
            kv_store_limit=self.kv_store_limit,
            kv_keep=self.kv_keep,
            kv_share=self.kv_share == "on",
        )


def _default_state_dir() -> Path | None:
    """None: this user has no home directory, as an arbitrary user of a container."""
    try:
        path = user_state_path("slotproxy")
    except RuntimeError:
        return None
    return path if path.is_absolute() else None  # without a home `~` stays as it is


if __name__ == "__main__":
    print(table(Settings), end="")
