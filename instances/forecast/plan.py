"""What would run if these settings were served now, and why: nothing is started, only looked at."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

from slotproxy.instances.forecast.parallel_slots import evaluate_parallel_slots
from slotproxy.instances.memory import machine as machines
from slotproxy.instances.memory import nvidia
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.profiles import context, launch, own_arguments, selection
from slotproxy.instances.profiles.profile import Profile
from slotproxy.instances.readings import Total
from slotproxy.instances.scaling import calibration
from slotproxy.instances.scaling.calibration import Calibration
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.wording import day, size
from slotproxy.instances.wording import instances as count_of

RULE = 80  # percent of the memory that a model and its KV caches should stay under, a rule of thumb for unified memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What instances with the same context cost by the model's file alone. Sizes are bytes.

    Weights and KV cache are all that a file tells. Compute buffers, the engine's heap and what it keeps of old prompts
    come on top, so an estimate is a lower bound; only a measurement knows the rest.
    """

    weights: int
    kv: int | None  # of one instance with a full context; None where the file does not tell
    shares: bool  # all instances map one copy of the weights

    @property
    def once(self) -> int:
        """What is there once, however many instances run."""
        return self.weights if self.shares else 0

    @property
    def each(self) -> int | None:
        """What one more instance costs."""
        own = 0 if self.shares else self.weights
        if self.kv is None:
            return own or None
        return own + self.kv

    def total(self, instances: int) -> int | None:
        return None if self.each is None else self.once + instances * self.each

    def fitting(self, limit: int) -> int | None:
        """How many stay within `limit` together; None where that cannot be told, as for a model without a KV cache."""
        if not self.each:
            return None
        return max(0, limit - self.once) // self.each


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would run. Sizes are bytes."""

    facts: ModelFacts
    profile: Profile
    missing: str | None  # why its engine cannot be run here; None: it can
    ctx: int  # tokens, of each instance
    metric: str  # of what there is a limit: "resident", "wired" or "vram"
    total: Total
    limit: int
    available: int  # what the machine could give now
    ctx_size: int | None  # what was asked for
    instances: int | None  # None: auto
    max_instances: int
    estimate: Estimate
    measured: Calibration | None  # what an earlier start found out about the same
    anew: bool  # whether the next start measures again all the same

    @property
    def under_limit(self) -> int | None:
        """How many instances would stay within --memory-limit by the estimate; None: it cannot be told."""
        return self.estimate.fitting(self.limit)

    @property
    def rule(self) -> int:
        """Bytes that the rule of thumb allows."""
        return self.total.size * RULE // 100

    @property
    def under_rule(self) -> int | None:
        return self.estimate.fitting(self.rule)

    @property
    def under_available(self) -> int | None:
        return self.estimate.fitting(self.available)

    def measured_under(self, limit: int) -> int | None:
        """How many instances would stay within `limit` by what was measured; None: nothing was."""
        if self.measured is None or self.measured.cost <= 0:
            return None
        return max(0, self.measured.instances + (limit - self.measured.used) // self.measured.cost)

    @property
    def measured_together(self) -> int | None:
        """Bytes that as many instances as are expected used at work; None: so many were not measured."""
        known = self.measured
        return known.used if known is not None and known.instances == self.expected else None

    @property
    def known(self) -> int | None:
        """How many instances `auto` starts because it found that out before."""
        return None if self.measured is None or self.anew else self.measured.instances

    @property
    def expected(self) -> int:
        """How many instances there will be; for auto how many there may be."""
        if self.instances is not None:
            return self.instances
        if self.known is not None:
            return self.known
        bounds = [bound for bound in (self.under_limit, self.under_available) if bound is not None]
        return max(1, min([self.max_instances, *bounds]))  # the first is started in any case

    @property
    def in_one_process(self) -> int | None:
        """Tokens for each of as many slots in one process that is told the same context; None: its rule is another."""
        return self.ctx // self.expected if self.profile.context_rule == "divided" else None

    @property
    def why(self) -> str:
        if self.instances is not None:
            return f"{count_of(self.instances)}, as asked"
        if self.known is not None and self.measured is not None:
            return f"{count_of(self.known)}, measured {day(self.measured.at)} ({self.measured.sentence})"
        if self.expected == self.max_instances:
            bound = "--max-instances"
        elif self.estimate.each is None:
            bound = "nothing is known of their size"
        else:
            bound = "the estimate"
        return f"at most {count_of(self.expected)} ({bound}); each is measured at work before the next is started"

    def warnings(self) -> Iterator[str]:
        """Sentences about what is allowed and may go wrong."""
        yield from self._of_memory()
        yield from self._of_context()
        asked = evaluate_parallel_slots(self.instances or 1, None, maximum=self.max_instances)
        if asked.warning is not None:
            yield f"{count_of(asked.requested)}, started as asked, are more than --max-instances {self.max_instances}"
        yield from selection.cautions(self.profile, instances=self.instances, ctx_size=self.ctx_size)
        if not self.profile.memory.shared and not self.profile.better_in_one_process:
            note = f" ({self.profile.memory.note})" if self.profile.memory.note else ""
            yield f"{self.profile.name} does not share the model's memory: every instance has a copy of its own{note}"

    def _of_memory(self) -> Iterator[str]:
        each, fitting = self.estimate.each, self.under_limit
        if each is None or fitting is None:
            yield f"{self.facts.path} does not tell what a token of context costs, so how many fit is not estimated"
            return
        if fitting < self.expected:
            least = size(self.estimate.once + self.expected * each)
            yield f"{count_of(self.expected)} would take {least} or more, the limit is {size(self.limit)}"
        elif (self.under_available or 0) < self.expected:
            least = size(self.estimate.once + self.expected * each)
            yield f"{count_of(self.expected)} would take {least} or more, {size(self.available)} are available now"
        at_most = self.facts.shape.at_most
        if at_most is not None:
            yield f"the KV cache may be smaller than estimated: {at_most}"

    def _of_context(self) -> Iterator[str]:
        small = evaluate_parallel_slots(1, self.ctx)  # an instance is one slot and has all of its context
        if small.warning is not None:
            yield f"--ctx-size {self.ctx}: {small.message}"
        trained = self.facts.context
        if trained is not None and trained < self.ctx:
            yield f"{self.ctx} tokens of context are more than the {trained} that the model was trained for"


async def forecast(settings: SupplySettings, facts: ModelFacts) -> Forecast:
    """Raises ConfigurationError where no start could choose an engine, or has been told a wrong one."""
    profile = selection.choose(settings.engine, facts, settings.engine_bin)
    own_arguments.check(profile, settings.engine_args)
    missing = selection.missing(profile, settings.engine_bin)
    machine = machines.choose(settings.memory_metric)
    measured = None if missing is not None else await _measured(settings, facts, machine.total())
    if measured is not None and measured.metric == "vram":
        machine = machines.choose("vram")
    total = machine.total()
    ctx = context.wanted(profile, settings.ctx_size, facts.context, overridden=bool(settings.engine_args))
    kv_token = facts.shape.kv_token
    return Forecast(
        facts=facts,
        profile=profile,
        missing=missing,
        ctx=ctx,
        metric=machine.metric,
        total=total,
        limit=settings.memory_limit.within(total.size),
        available=machine.available(()),
        ctx_size=settings.ctx_size,
        instances=settings.instances,
        max_instances=settings.max_instances,
        estimate=Estimate(
            weights=facts.size,
            kv=None if kv_token is None else kv_token * ctx,
            # A GPU's memory is charged to each process, and what a process has wired, too.
            shares=profile.memory.shared and machine.metric == "resident",
        ),
        measured=measured,
        anew=settings.recalibrate,
    )


async def _measured(settings: SupplySettings, facts: ModelFacts, total: Total) -> Calibration | None:
    """What `auto` found out; with a number of instances asked for it is still worth showing."""
    asked = replace(settings, instances=None)
    launched = await launch.prepare(asked, facts)
    totals = [total]
    if settings.memory_metric == "auto" and nvidia.usable():  # it may have turned to the GPU's once the engine worked
        totals.append(machines.choose("vram").total())
    for each in totals:
        key = await asyncio.to_thread(calibration.fingerprint, launched, asked, each)
        found = await asyncio.to_thread(calibration.load, settings.state_dir, key)
        if found is not None:
            return found
    return None
