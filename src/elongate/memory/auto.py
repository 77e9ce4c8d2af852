"""The plan that the planner recommends: the fastest that fits the device's memory; of equally fast ones the simplest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.memory.memory import Memory

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


@dataclass(frozen=True, kw_only=True)
class Auto(Memory):
    word: ClassVar[str] = "auto"

    def prepare(self, model: LanguageModel, length: int) -> Memory:
        """Chooses and prints the plan. Raises `ConfigError` with the longest length that fits if no plan does."""
        from elongate.memory.planner.planner import advise, describe, gib

        advice = advise(model, length)
        if advice.recommended is None:
            raise advice.refusal()
        chosen = advice.recommended
        needed = f"{gib(chosen.peak)} at length {length} besides weights, gradients and optimizer state, where {gib(advice.room)} are free"
        others = "" if len(advice.estimates) > 1 else "; no other can train this model"
        print(f"memory auto: {describe(chosen.plan)}, the fastest plan that fits: {needed}{others}", flush=True)
        return chosen.plan.prepare(model, length)

    @property
    def tokens_at_once(self) -> int:
        raise AssertionError("`prepare` returns the plan that is asked")

    def backward(self, model: LanguageModel, example: Example) -> float:
        raise AssertionError("`prepare` returns the plan that computes")
