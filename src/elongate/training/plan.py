"""`plan=true`: memory and time of a step under each memory plan, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elongate.data.tokenizer.tokenizer import planned_vocab_size
from elongate.errors import inside
from elongate.memory.planner.free_memory import format_bytes
from elongate.memory.planner.planner import MARGIN, Advice, advise
from elongate.training.device import find_device
from elongate.training.job import Job
from elongate.training.validate import with_model

Row = tuple[str, str, str, str, str, str]
_TEACHER = (
    "Does not count the teacher of objective={}: its weights, its forward pass, and its hidden states of all tokens of a step. "
    "Assumes that every token is read once and scored."
)
_INEXACT = "Assumes that every token is read once and scored: objective={} has other targets and may read the text more than once."
_ESTIMATED = "Times are estimates from the data sheet of the card and assumed shares of its peak rates; they were not measured."

if TYPE_CHECKING:
    from elongate.memory.planner.planner import PlanCost


def plan(job: Job) -> str:
    """Returns a table for the longest stage, and the override to type. Raises `ConfigError`.

    Weights are neither read nor allocated: the configuration of the model is enough.
    """
    import torch

    from elongate.memory.planner.cards import CARDS
    from elongate.memory.planner.depth import depths
    from elongate.models.precision import narrow_frozen_weights, use_precision
    from elongate.models.weightless import Weightless

    # A checkpoint has its own vocabulary, and its tokenizer need not be there.
    vocab_size = planned_vocab_size(job.tokenizer, job.data, job.objective.masks) if job.model.fresh else 0
    described = job.model.describe(vocab_size)
    found = depths(described)
    weightless = Weightless(described, None if found is None else found.shallow)
    job.model.restore_position(weightless.miniature)
    job, original_length = with_model(job, weightless.miniature)
    stages = job.strategy.stages(original_length, job.steps)
    card = None if job.plan.device is None else CARDS[job.plan.device]
    device = find_device(job.device) if card is None else torch.device("cuda")
    model = weightless.extended(job.strategy, original_length, max(stage.reach for stage in stages), device)
    model.word = job.model.word
    use_precision(model, job.precision)
    with inside("tuning"):
        job.tuning.apply(model, job.seed)
    if job.precision == "bf16":
        narrow_frozen_weights(model.network)
    length = max(stage.length for stage in stages)
    advice = advise(model, length, job.batch_tokens // length, job.memory, card)
    text = _text(advice, device.type if card is None else card.word)
    text = text if card is None else f"{text}\n{_ESTIMATED}"
    if job.objective.plan_is_exact:
        return text
    note = _INEXACT if job.objective.teacher_source is None else _TEACHER
    return f"{text}\n{note.format(job.objective.word)}"


def _text(advice: Advice, device: str) -> str:
    held = advice.weights + advice.gradients + advice.optimizer
    rows = [("", "peak memory", "of it the step", "FLOPs", "s/step", "longest that fits")]
    rows += [_row(cost, held, advice.longest(cost.plan)) for cost in advice.costs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "   ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in rows
    ]
    title = f"One step: {advice.rows} × {advice.length} tokens on {device}, {format_bytes(advice.free)} free"
    weights, gradients, optimizer = map(format_bytes, (advice.weights, advice.gradients, advice.optimizer))
    parts = f"weights {weights}, gradients {gradients}, optimizer state at most {optimizer}"
    return "\n".join([title, parts, "", *lines, "", _recommendation(advice)])


def _row(cost: PlanCost, held: int, longest: int) -> Row:
    fits = f"{longest:,} tokens" if longest else "none"
    return cost.plan.overrides, format_bytes(held + cost.peak), format_bytes(cost.peak), f"{cost.flops:.2e}", f"{cost.seconds:.3g}", fits


def _recommendation(advice: Advice) -> str:
    if advice.recommended is None:
        return f"recommended: none. {advice.refusal()}"
    return f"recommended: {advice.recommended.plan.overrides} (the fastest that leaves {MARGIN:.0%} of the free memory)"
