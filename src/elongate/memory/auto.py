"""The plan that the planner recommends: the fastest that fits the device's memory; of equally fast ones the simplest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from elongate.console import say
from elongate.memory.memory import Memory, Plan

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Auto(Memory):
    """Chooses a plan when training starts."""

    word: ClassVar[str] = "auto"
    splits_rows: ClassVar[bool] = True  # it may choose a plan that does

    def prepare(self, model: LanguageModel, length: int) -> Plan:
        """Choose and print the plan. Raises `ConfigError` with the longest length that fits if no plan does."""
        from elongate.memory.planner.free_memory import format_bytes
        from elongate.memory.planner.planner import advise

        advice = advise(model, length, is_complete=False)
        if advice.recommended is None:
            raise advice.refusal()
        chosen = advice.recommended
        needed = (
            f"{format_bytes(chosen.peak)} at length {length} besides weights, gradients and optimizer state, "
            f"where {format_bytes(advice.available)} are free"
        )
        others = "" if len(advice.costs) > 1 else "; no other plan can train this model"
        say(f"memory auto: {chosen.plan.overrides}, the fastest plan that fits: {needed}{others}")
        return chosen.plan.prepare(model, length)
