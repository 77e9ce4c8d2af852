"""Evaluations during the training: figures on a small sample of held-out documents, the best checkpoint, and early stopping.

Nothing of this changes the training: all its randomness is set for each step, and the extension is applied again after an
evaluation. All decisions follow from lines of `metrics.jsonl`, so a resumed run decides the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elongate.evaluation.evaluation import FOLLOWED, Setting
from elongate.peak_memory import reset_peak_memory
from elongate.training.job import Job
from elongate.training.run_directory import Lines

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True)
class Following:
    """The evaluations of one training, which the training loop asks after each step."""

    job: Job
    setting: Setting | None  # what is measured; None: nothing is
    lines: Lines  # of this training that contain figures, oldest first

    @classmethod
    def resumed(cls, job: Job, setting: Setting | None, lines: Lines) -> Following:
        """Returns the state after the `lines` of `metrics.jsonl`."""
        words = job.training.evaluate or []
        return cls(job, setting if words else None, [line for line in lines if any(FOLLOWED + word in line for word in words)])

    def is_due(self, step: int, is_last: bool) -> bool:
        """Whether the model is measured after this step, counted from the first step of the extension."""
        steps = self.job.training.evaluate_steps
        return self.setting is not None and steps is not None and (is_last or step % steps == 0)

    def measured(self, model: LanguageModel, line: dict[str, Any], reach: int) -> dict[str, Any]:
        """Returns the line of `metrics.jsonl` with the figures of the model as it would be exported now.

        `reach`: of the stage, for which the model is extended again.
        """
        assert self.setting is not None, "is_due"
        lengths, strategy = (self.setting.original_length, self.setting.target_length), self.job.strategy
        model.extend(strategy, *lengths)
        model.attend(strategy.measured_attention, *lengths)
        model.network.eval()
        wanted = self.job.training.evaluate or []
        line = line | {FOLLOWED + e.word: e.follow(model, self.setting) for e in self.job.evaluations if e.word in wanted}
        model.network.train()
        model.extend(strategy, self.setting.original_length, reach)
        reset_peak_memory(model.device)  # the line has the peak of the training until now
        self.lines.append(line)
        return line

    @property
    def best_step(self) -> int | None:
        """The step with the lowest figure of `training.keep_best`, the first one of several; None if none is kept yet."""
        word = self.job.training.keep_best
        if word is None or not self.lines:
            return None
        return int(min(self.lines, key=lambda line: _or_infinite(line[FOLLOWED + word]))["step"])

    @property
    def is_over(self) -> bool:
        """Whether the last `training.stop_after` evaluations were all no better than an earlier one."""
        patience, best = self.job.training.stop_after, self.best_step
        return patience is not None and best is not None and sum(line["step"] > best for line in self.lines) >= patience

    def section(self, planned: int) -> dict[str, Any]:
        """Returns `followed` of the results. `planned`: the last step of the training if it is not stopped early."""
        figures = {word: [line[FOLLOWED + word] for line in self.lines] for word in self.job.training.evaluate or []}
        stopped = self.is_over and self.lines[-1]["step"] < planned
        kept = {"kept": self.job.training.keep_best, "best_step": self.best_step, "stopped_early": stopped, "planned_step": planned}
        return {"steps": [line["step"] for line in self.lines], "figures": figures} | kept


def _or_infinite(figure: float) -> float:
    return figure if math.isfinite(figure) else math.inf
