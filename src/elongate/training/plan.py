"""`plan=true`: memory and time of a step under each memory plan, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elongate.data.tokenizer.tokenizer import fit_tokenizer
from elongate.errors import inside
from elongate.memory.planner.planner import MARGIN, Advice, advise, format_bytes
from elongate.training.base import without_base
from elongate.training.job import Job
from elongate.training.validate import with_model

Row = tuple[str, str, str, str, str, str]
_TEACHER = (
    "Does not count the teacher of objective={}: its weights, its forward pass, and its hidden states of all tokens of a step. "
    "Assumes that every token is read once and scored."
)
_INEXACT = "Assumes that every token is read once and scored: objective={} has other targets and may read the text more than once."

if TYPE_CHECKING:
    from elongate.memory.planner.planner import PlanCost


def plan(job: Job) -> str:
    """Returns a table for the longest stage, and the override to type. Raises `ConfigError`.

    A fresh model has random weights: no base is trained.
    """
    model = without_base(job, fit_tokenizer(job.tokenizer, job.data, needs_mask=job.objective.masks)).build(job)
    job, original_length = with_model(job, model)
    with inside("tuning"):
        job.tuning.apply(model, job.seed)
    stages = job.strategy.stages(original_length, job.steps)
    model.extend(job.strategy, original_length, max(stage.reach for stage in stages))
    length = max(stage.length for stage in stages)
    text = _text(advise(model, length, job.batch_tokens // length, job.memory), model.device.type)
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
