"""Compares the memory plans for one step: memory, FLOPs, seconds, and the longest sequence that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory, Plan
from elongate.memory.plain import Plain
from elongate.memory.planner.free_memory import format_bytes
from elongate.memory.recomputation import layers_of
from elongate.memory.stream import Stream

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.memory.planner.cards import Card
    from elongate.models.language_model import LanguageModel

MARGIN = 0.1  # share of the free memory that is left unused
_EQUAL_SPEED = 0.05  # plans whose times differ by less than this share count as equally fast; the first is chosen
_SAVING = {"keep_attention", "offload", "on_disk"}  # fields whose variants save memory and are never faster
_KINDS = (Plain(), Checkpoint(), Stream())  # the simplest first


@dataclass(frozen=True)
class PlanCost:
    """What a step takes under a plan."""

    plan: Plan
    peak: int  # bytes beyond weights, gradients and optimizer state
    flops: float  # of a step
    seconds: float  # of a step


@dataclass(frozen=True)
class Advice:
    """The cost of a step under every plan, and the memory that there is."""

    length: int  # tokens of a sequence
    rows: int  # sequences in a step
    weights: int  # bytes
    gradients: int  # bytes
    optimizer: int  # bytes of its state
    free: int  # bytes
    costs: tuple[PlanCost, ...]  # the simplest plan first
    longest: Callable[[Plan], int]  # tokens of a sequence that fits
    is_loaded: bool = True  # the free bytes are those that remain beside the weights

    @property
    def available(self) -> int:
        """Bytes that are left for a step beyond weights, gradients and optimizer state."""
        return round((1 - MARGIN) * self.free) - self._held

    @property
    def _held(self) -> int:
        """Bytes that are taken from the free ones before a step begins."""
        return self.gradients + self.optimizer + (0 if self.is_loaded else self.weights)

    @property
    def recommended(self) -> PlanCost | None:
        """The fastest plan that fits; None if no plan fits."""
        fitting = [cost for cost in self.costs if cost.peak <= self.available]
        quickest = min((cost.seconds for cost in fitting), default=0.0)
        return next((cost for cost in fitting if cost.seconds <= (1 + _EQUAL_SPEED) * quickest), None)

    def refusal(self) -> ConfigError:
        """Return the error for the case that no plan fits."""
        least = min(self.costs, key=lambda cost: cost.peak)
        longest, plan = max(((self.longest(cost.plan), cost.plan) for cost in self.costs), key=lambda pair: pair[0])
        weights = "" if self.is_loaded else f"{format_bytes(self.weights)} of weights, "
        rule = (
            f"fits under no memory plan: the smallest, {least.plan.overrides}, takes {format_bytes(least.peak)} besides "
            f"{weights}{format_bytes(self.gradients)} of gradients and {format_bytes(self.optimizer)} of optimizer state, "
            f"and {format_bytes(self.free)} are free"
        )
        remedy = "use a smaller model, tuning=lora or more memory"
        if longest:
            remedy = f"use {{key}}={longest} at most, with {plan.overrides}"
        return ConfigError("context.target_length", self.length, rule, remedy)


def advise(
    model: LanguageModel,
    length: int,
    batch_rows: int | None = None,
    chosen: Memory | None = None,
    card: Card | None = None,
    is_complete: bool = True,
) -> Advice:
    """Return the cost of every plan that may be useful, assuming the optimizer state of AdamW, the largest available.

    `batch_rows`: sequences in a step; None: as many as any plan computes together.
    `chosen`: a setting whose plans keep their fields. `card`: the card that the model is planned for; None: the model's device.
    `is_complete`: also compare plans that save more memory than is needed.
    """
    from elongate.memory.planner.free_memory import free_bytes
    from elongate.memory.planner.step_costs import StepCosts
    from elongate.memory.planner.throughput import seconds_of

    plans = _candidates(model, length, () if chosen is None else chosen.plans)
    rows = batch_rows or max(plan.rows(length) for plan in plans)
    steps = StepCosts(model, card)
    weights = sum(p.numel() * p.element_size() for p in model.network.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters())
    free = free_bytes(model.device) if card is None else card.free_bytes
    is_loaded = model.planned_device is None

    def longest(plan: Plan) -> int:
        return steps.longest(plan, advice.available)

    optimizer = sum(_state_bytes(p) for p in model.parameters())
    advice = Advice(length, rows, weights, trained, optimizer, free, (), longest, is_loaded)
    kept = () if chosen is None else chosen.plans
    for plan in sorted(plans, key=lambda plan: plan.is_last_resort):  # the order stays the same otherwise
        fitting = [cost.plan for cost in advice.costs if cost.peak <= advice.available]
        if plan not in kept and (any(_saves(plan, other) for other in fitting) if not is_complete else fitting and plan.is_last_resort):
            continue
        peak, work = steps.predict(plan, rows, length)
        seconds = seconds_of(work, model.device) if card is None else card.seconds_of(work)
        advice = replace(advice, costs=(*advice.costs, PlanCost(plan, peak, float(work.flops.total()), seconds)))
    return _with_kept_layers(advice, model)


def _with_kept_layers(advice: Advice, model: LanguageModel) -> Advice:
    """Add the plan that recomputes as few layers as fit, if some do: its cost is between those of recomputing all and none."""
    whole = next((cost for cost in advice.costs if isinstance(cost.plan, Plain)), None)
    recomputed = next((cost for cost in advice.costs if isinstance(cost.plan, Checkpoint) and cost.plan.can_keep_layers), None)
    if whole is None or recomputed is None or whole.peak <= max(advice.available, recomputed.peak):
        return advice
    layers = len(layers_of(model.network))
    count = (advice.available - recomputed.peak) * layers // (whole.peak - recomputed.peak)
    if count < 1:
        return advice
    share = count / layers

    def between(most: float, least: float) -> float:
        return least + share * (most - least)

    assert isinstance(recomputed.plan, Checkpoint)
    kept = PlanCost(
        replace(recomputed.plan, keep_layers=count),
        round(between(whole.peak, recomputed.peak)),
        between(whole.flops, recomputed.flops),
        between(whole.seconds, recomputed.seconds),
    )
    place = advice.costs.index(recomputed) + 1

    def longest(plan: Plan) -> int:
        if plan != kept.plan:
            return advice.longest(plan)
        return int(advice.length * advice.available / kept.peak) // 64 * 64  # at least: a part of the peak does not grow

    return replace(advice, costs=(*advice.costs[:place], kept, *advice.costs[place:]), longest=longest)


def _saves(plan: Plan, other: Plan) -> bool:
    """Return whether a plan differs from another only in that it saves memory."""
    if plan.is_last_resort:
        return True
    return type(plan) is type(other) and {name for name, value in vars(plan).items() if getattr(other, name) != value} <= _SAVING


def _state_bytes(parameter: Tensor) -> int:
    """Two moments in the dtype of the weight; if that is bfloat16, 8-bit ones with a scale per 256 (training/optimizer/eight_bit.py)."""
    count = parameter.numel()
    if parameter.element_size() == 2 and count >= 4096 and count % 256 == 0:
        return 2 * (count + 4 * count // 256)
    return 2 * count * parameter.element_size()


def _candidates(model: LanguageModel, length: int, chosen: tuple[Plan, ...]) -> list[Plan]:
    """Return all plans that can train this model, the simplest first: the first variant of each kind, then the second."""
    kinds = {plan.word: plan for plan in (*_KINDS, *chosen)}
    device = model.device.type
    turns = zip_longest(*([sized for variant in kind.variants() for sized in variant.sizes(device)] for kind in kinds.values()))
    every = dict.fromkeys(plan for turn in turns for plan in turn if plan is not None)
    return [plan for plan in every if (plan in chosen or plan.helps(length)) and _can_train(plan, model, length)]


def _can_train(plan: Plan, model: LanguageModel, length: int) -> bool:
    try:
        plan.check_model(model)
        plan.check_length(model, length)
    except ConfigError:
        return False
    return True
