"""What would run if these settings were served now, and why: nothing is started, only looked at."""

from collections.abc import Iterator
from dataclasses import dataclass

from slotproxy.instances import context, launch, memory
from slotproxy.instances.estimate import Estimate
from slotproxy.instances.model import ModelFacts
from slotproxy.instances.parallel_slots import evaluate_parallel_slots
from slotproxy.instances.planner import size
from slotproxy.instances.profiles import Profile
from slotproxy.instances.readings import Total
from slotproxy.instances.settings import SupplySettings

RULE = 80  # percent of the memory that a model and its KV caches should stay under, a rule of thumb for unified memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Sizes are bytes."""

    facts: ModelFacts
    profile: Profile
    missing: str | None  # why its engine cannot be run here; None: it can
    ctx: int  # tokens, of each instance
    total: Total
    limit: int
    available: int  # what the machine could give now
    ctx_size: int | None  # what was asked for
    instances: int | None  # None: auto
    max_instances: int
    estimate: Estimate

    @property
    def under_limit(self) -> int | None:
        """How many instances would stay within --memory-limit by the estimate; None: it cannot be told."""
        return self.estimate.fitting(self.limit)

    @property
    def under_rule(self) -> int | None:
        return self.estimate.fitting(self.total.size * RULE // 100)

    @property
    def under_available(self) -> int | None:
        return self.estimate.fitting(self.available)

    @property
    def expected(self) -> int:
        """How many instances there will be; for auto how many there may be."""
        if self.instances is not None:
            return self.instances
        bounds = [bound for bound in (self.under_limit, self.under_available) if bound is not None]
        return max(1, min([self.max_instances, *bounds]))  # the first is started in any case

    @property
    def in_one_process(self) -> int | None:
        """Tokens for each of as many slots in one process that is told the same context; None: its rule is another."""
        return self.ctx // self.expected if self.profile.context_rule == "divided" else None

    @property
    def why(self) -> str:
        if self.instances is not None:
            return f"{_count(self.instances)}, as asked"
        if self.expected == self.max_instances:
            bound = "--max-instances"
        elif self.estimate.each is None:
            bound = "nothing is known of their size"
        else:
            bound = "the estimate"
        return f"at most {_count(self.expected)} ({bound}); each is measured at work before the next is started"

    def warnings(self) -> Iterator[str]:
        """Sentences about what is allowed and may go wrong."""
        yield from self._of_memory()
        yield from self._of_context()
        asked = evaluate_parallel_slots(self.instances or 1, None, maximum=self.max_instances)
        if asked.warning is not None:
            yield f"{_count(asked.requested)}, started as asked, are more than --max-instances {self.max_instances}"
        yield from launch.cautions(self.profile, instances=self.instances, ctx_size=self.ctx_size)
        if not self.profile.memory.shared and not self.profile.sole:
            note = f" ({self.profile.memory.note})" if self.profile.memory.note else ""
            yield f"{self.profile.name} does not share the model's memory: every instance has a copy of its own{note}"

    def _of_memory(self) -> Iterator[str]:
        each, fitting = self.estimate.each, self.under_limit
        if each is None or fitting is None:
            yield f"{self.facts.path} does not tell what a token of context costs, so how many fit is not estimated"
            return
        if fitting < self.expected:
            least = size(self.estimate.once + self.expected * each)
            yield f"{_count(self.expected)} would take {least} or more, the limit is {size(self.limit)}"
        elif (self.under_available or 0) < self.expected:
            least = size(self.estimate.once + self.expected * each)
            yield f"{_count(self.expected)} would take {least} or more, {size(self.available)} are available now"
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


def look(settings: SupplySettings, facts: ModelFacts) -> Outlook:
    """Raises ConfigurationError where no start could choose an engine, or has been told a wrong one."""
    profile = launch.choose(settings.engine, facts, settings.engine_bin)
    launch.check_arguments(profile, settings.engine_args)
    total = memory.effective_total()
    ctx = context.wanted(profile, settings.ctx_size, facts.context, overridden=bool(settings.engine_args))
    kv_token = facts.shape.kv_token
    return Outlook(
        facts=facts,
        profile=profile,
        missing=launch.missing(profile, settings.engine_bin),
        ctx=ctx,
        total=total,
        limit=settings.memory_limit.within(total.size),
        available=memory.available(),
        ctx_size=settings.ctx_size,
        instances=settings.instances,
        max_instances=settings.max_instances,
        estimate=Estimate(
            weights=facts.size, kv=None if kv_token is None else kv_token * ctx, shares=profile.memory.shared
        ),
    )


def _count(instances: int) -> str:
    return f"{instances} instance{'s' * (instances != 1)}"
