"""How a row of the table of llama-server's options is written: its flags, and the settings that follow. Pure."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from slotproxy.instances.profiles import llama_values as values
from slotproxy.instances.profiles.llama_values import Content, Grammar, Member, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Its spellings, and what follows from it."""

    flags: tuple[str, ...]
    hint: str  # of its value; empty: it has none
    settings: Callable[[str], Iterable[Setting]]  # of the text of its value; raises ValueError with a clause


SAMPLING = "common_params_sampling_config", "COMMON_PARAMS_SAMPLING_CONFIG_"
PRIORITY = {"-1": "LOW", "0": "NORMAL", "1": "MEDIUM", "2": "HIGH", "3": "REALTIME"}
THREADS = values.whole(-1)
COUNT = values.whole(0)
NGRAM = values.whole(1, 1024)


def takes(flags: str, field: str, read: Callable[[str], Any], hint: str = "N", *, added: bool = False) -> Option:
    def settings(text: str) -> Iterable[Setting]:
        return (Setting(field=field, value=read(text), added=added),)

    return Option(flags=tuple(flags.split()), hint=hint, settings=settings)


def sets(flags: str, *settings: Setting) -> Option:
    return Option(flags=tuple(flags.split()), hint="", settings=lambda _: settings)


def on(flags: str, field: str, value: Any = True) -> Option:
    return sets(flags, Setting(field=field, value=value))


def either(yes: str, no: str, field: str, *, reverse: bool = False) -> tuple[Option, Option]:
    """`reverse`: the field says the opposite."""
    return on(yes, field, not reverse), on(no, field, reverse)


def whole(flags: str, field: str, least: int | None = None) -> Option:
    return takes(flags, field, values.whole() if least is None else values.whole(least))


def real(flags: str, field: str) -> Option:
    return takes(flags, field, values.real)


def text(flags: str, field: str, hint: str = "TEXT") -> Option:
    return takes(flags, field, str, hint)


def sampling(flags: str, field: str, read: Callable[[str], Any], mark: str, hint: str = "N") -> Option:
    """One of which the engine remembers that the user chose it: the model's own recommendation does not replace it."""

    def settings(text: str) -> Iterable[Setting]:
        yield Setting(field=f"sampling.{field}", value=read(text))
        yield Setting(field="sampling.user_sampling_config", value=Member(SAMPLING[0], SAMPLING[1] + mark), added=True)

    return Option(flags=tuple(flags.split()), hint=hint, settings=settings)


def at_least_none(text: str) -> float:
    return max(values.real(text), 0.0)


def _threads(flags: str, field: str) -> Option:
    return takes(flags, f"{field}.n_threads", lambda text: max(THREADS(text), 0) or -1)


def _mask(flags: str, field: str, read: Callable[[str], list[bool]], hint: str) -> Option:
    def settings(text: str) -> Iterable[Setting]:
        yield Setting(field=f"{field}.cpumask", value=read(text))
        yield Setting(field=f"{field}.mask_valid", value=True)

    return Option(flags=tuple(flags.split()), hint=hint, settings=settings)


def _priority(text: str) -> Member:
    return values.choice("ggml_sched_priority", "GGML_SCHED_PRIO_", **PRIORITY)(text)


def timeout(text: str) -> Iterable[Setting]:
    seconds = values.whole(0)(text)
    return Setting(field="timeout_read", value=seconds), Setting(field="timeout_write", value=seconds)


def template_arguments(text: str) -> Iterable[Setting]:
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError(f"needs a JSON object, not {text!r}")
    written = {name: json.dumps(value) for name, value in parsed.items()}
    yield Setting(field="default_template_kwargs", value=written, added=True)


def reasoning(text: str) -> Iterable[Setting]:
    if text in values.AUTO:
        yield Setting(field="enable_reasoning", value=-1)
        return
    wanted = values.switch(text)
    yield Setting(field="enable_reasoning", value=int(wanted))
    yield Setting(field="default_template_kwargs", value={"enable_thinking": json.dumps(wanted)}, added=True)


def preserve(wanted: bool) -> tuple[Setting, Setting]:
    kept = Setting(field="default_template_kwargs", value={"preserve_reasoning": json.dumps(wanted)}, added=True)
    return kept, Setting(field="preserve_reasoning_specified", value=True)


def repetition(text: str) -> Iterable[Setting]:
    yield from sampling("", "penalty_last_n", COUNT, "PENALTY_LAST_N").settings(text)
    yield Setting(field="sampling.n_prev", value=max(64, COUNT(text)))


def grammar(text: str) -> Grammar:
    return Grammar(text, schema=False)


def schema(text: str) -> Grammar:
    return Grammar(text, schema=True)


def grammar_file(path: str) -> Grammar:
    return Grammar(Content(path), schema=False)


def schema_file(path: str) -> Grammar:
    return Grammar(Content(path), schema=True)


def origins(text: str) -> Iterable[Setting]:
    return Setting(field="cors_origins", value=text), Setting(field="cors_origins_explicit", value=True)


def processor(names: Callable[[str], str], field: str) -> Iterable[Option]:
    """Threads, and the cores they run on. `names`: the flags made of the plain name of one."""
    yield _threads(names("threads"), field)
    yield _mask(names("cpu-mask"), field, values.cpu_mask, "HEX")
    yield _mask(names("cpu-range"), field, values.cpu_range, "FIRST-LAST")
    yield takes(names("cpu-strict"), f"{field}.strict_cpu", values.switch, "0|1")
    yield takes(names("prio"), f"{field}.priority", _priority)
    yield takes(names("poll"), f"{field}.poll", values.whole(0, 100))


_SHORT = {"threads": "t", "cpu-mask": "C", "cpu-range": "Cr"}


def own(name: str) -> str:
    return f"--{name}" + (f" -{_SHORT[name]}" if name in _SHORT else "")


def batch(name: str) -> str:
    short = {"threads": " -tb", "cpu-mask": " -Cb", "cpu-range": " -Crb"}
    return f"--{name}-batch" + short.get(name, "")


def draft(name: str) -> str:
    short = {"threads": " -td", "cpu-mask": " -Cd", "cpu-range": " -Crd"}
    return f"--spec-draft-{name} --{name}-draft" + short.get(name, "")


def draft_batch(name: str) -> str:
    short = {"threads": " -tbd", "cpu-mask": " -Cbd", "cpu-range": " -Crbd"}
    return f"--spec-draft-{name}-batch --{name}-batch-draft" + short.get(name, "")


def ngrams(name: str, field: str) -> Iterable[Option]:
    yield takes(f"--spec-{name}-size-n", f"{field}.size_n", NGRAM)
    yield takes(f"--spec-{name}-size-m", f"{field}.size_m", NGRAM)
    yield takes(f"--spec-{name}-min-hits", f"{field}.min_hits", values.whole(1))
