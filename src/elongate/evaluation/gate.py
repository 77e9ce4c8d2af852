"""A gate: what the extension must not break, within the original length.

Compares a model with another on the same samples. Losses of documents are compared in pairs by a bootstrap,
answers by McNemar's test (1947) of those that only one of the two models got right. The gate closes if a
figure is worse by more than the allowed margin and not by chance; the command then ends with exit code 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from elongate.errors import ConfigError, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.measurement.intervals import LEVEL, bootstrap_interval
from elongate.evaluation.measurement.samples import Record, Samples
from elongate.evaluation.presentation.gate import GatePresentation

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

Pairs = list[tuple[Record, Record]]  # records of the same sample: the other model's, this one's
_ENOUGH = 2  # samples in common; with fewer there is no interval


@dataclass(frozen=True, kw_only=True)
class Gate(GatePresentation, Evaluation):
    """Passes or closes, from the samples of `curve` and `retrieval`."""

    # Folder of a run or an evaluation, whose model (after) is compared; null: this run's model before the extension.
    base: str | None = None
    loss_margin: float = 0.05  # nats by which the loss may rise, at least 0
    share_margin: float = 0.05  # by which the share of right answers may fall, 0 to 1

    is_measured: ClassVar[bool] = False
    compares: ClassVar[tuple[str, ...]] = ("curve", "retrieval")

    def __post_init__(self) -> None:
        require(self.loss_margin >= 0, "loss_margin", self.loss_margin, "must be at least 0 nats", "use {key}=0.05")
        require(0 <= self.share_margin <= 1, "share_margin", self.share_margin, "must be between 0 and 1", "use {key}=0.05")
        rule = "contains no samples.jsonl: it is not the folder of a run or an evaluation"
        exists = self.base is None or (Path(self.base) / "samples.jsonl").is_file()
        require(exists, "base", self.base, rule, "evaluate the other model first: python evaluate.py checkpoint=…")

    def check_alone(self) -> None:
        if self.base is None:
            raise self._no_other_model()

    def header(self, setting: Setting) -> dict[str, Any]:
        return {"base": self.base or "before", "original_length": setting.original_length}

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        raise AssertionError("is_measured is false")

    def conclude(self, samples: Samples, setting: Setting) -> dict[str, Any]:
        """Compare the two models. Raises `ConfigError` if they have no samples in common."""
        theirs = samples.of_row("before") if self.base is None else Samples.read(Path(self.base) / "samples.jsonl").of_row("after")
        if not theirs:
            raise self._no_other_model()
        ours = samples.of_row("after")
        pairs = {key: (theirs[key], ours[key]) for key in sorted(theirs.keys() & ours.keys())}
        near = {key: pair for key, pair in pairs.items() if pair[0].get("within_original")}
        losses = [pair for (word, _), pair in near.items() if word == "curve"]
        answers = [pair for (word, _), pair in near.items() if word == "retrieval"]
        found: dict[str, Any] = {}
        if len(losses) >= _ENOUGH:
            found["loss"] = self._compare_losses(losses, setting.seed)
        if len(answers) >= _ENOUGH:
            found["answers"] = self._compare_answers(answers)
        if not found:
            rule = "has no samples in common with this model: other data, another seed, tokenizer or length, or neither curve nor retrieval"
            raise ConfigError("evaluation.gate.base", self.base, rule, "measure both in the same way, evaluation=[curve,retrieval,gate]")
        return found | {"passed": all(part["passed"] for part in found.values())}

    def _no_other_model(self) -> ConfigError:
        rule = "names no other model, and there is none from before an extension here"
        return ConfigError("evaluation.gate.base", self.base, rule, "name the folder of its run or evaluation")

    def _compare_losses(self, pairs: Pairs, seed: int) -> dict[str, Any]:
        """How much higher this model's loss is at positions below the original length, token-weighted."""
        rows = np.array([(ours["near_loss"] - theirs["near_loss"], ours["near_tokens"]) for theirs, ours in pairs])
        rise = rows[:, 0].sum() / rows[:, 1].sum()
        interval = bootstrap_interval(rows, lambda draws: draws[:, :, 0].sum(axis=1) / draws[:, :, 1].sum(axis=1), seed)
        passed = not (rise > self.loss_margin and interval[0] > 0)
        return {"n": len(pairs), "rise": float(rise), "interval": interval, "margin": self.loss_margin, "passed": passed}

    def _compare_answers(self, pairs: Pairs) -> dict[str, Any]:
        """How many fewer right answers this model prefers to a wrong one, at lengths up to the original one."""
        from scipy.stats import binomtest

        lost = sum(theirs["preferred"] and not ours["preferred"] for theirs, ours in pairs)
        won = sum(ours["preferred"] and not theirs["preferred"] for theirs, ours in pairs)
        chance = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
        fall = (lost - won) / len(pairs)
        passed = not (fall > self.share_margin and chance < 1 - LEVEL)
        return {"n": len(pairs), "fall": fall, "lost": lost, "won": won, "p": chance, "margin": self.share_margin, "passed": passed}
