"""A context strategy is the answer to three questions: where is each token, who sees whom, and how does the length grow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from elongate.context.attention.attention import Attention
from elongate.context.curriculum.curriculum import Curriculum, Stage
from elongate.context.position.position import Position
from elongate.context.sampling.sampling import Sampling
from elongate.errors import ConfigError, inside, require


@dataclass(frozen=True, kw_only=True)
class Strategy:
    position: Position
    attention: Attention
    curriculum: Curriculum
    target_length: int  # tokens, at least the model's original length
    evaluation_attention: Attention | None = None  # who sees whom when the model is measured; None: as in training
    sampling: Sampling | None = None  # which positions a training sequence gets; None: 0, 1, 2 …

    def __post_init__(self) -> None:
        require(self.target_length > 0, "target_length", self.target_length, "must be at least 1", "use {key}=1024")

    @property
    def measured_attention(self) -> Attention:
        """Who sees whom when the model is measured."""
        return self.attention if self.evaluation_attention is None else self.evaluation_attention

    @property
    def acts_untrained(self) -> bool:
        """Whether it changes a model that is not trained any further."""
        return self.position.changes_model or not self.measured_attention.is_full

    def stages(self, original_length: int, steps: int) -> list[Stage]:
        """After the base. Sequences whose positions are sampled are as long as those that the model was trained on."""
        stages = self.curriculum.stages(original_length, self.target_length, steps)
        if self.sampling is None:
            return stages
        return [replace(stage, length=min(original_length, stage.length), sampled_below=stage.length) for stage in stages]

    def check(self, has: frozenset[str], original_length: int, model: str) -> None:
        """Raises `ConfigError` where the model lacks what an answer needs to act."""
        answers = [("context/position", self.position.word, self.position.needs(self.target_length / original_length))]
        answers += [("context/attention", attention.word, attention.needs()) for attention in (self.attention, self.measured_attention)]
        for group, word, needs in answers:
            if missing := needs - has:
                rule = f"needs {_WORDS[min(missing)]}, which model={model} does not have"
                raise ConfigError(group, word, rule, _remedy(group, missing, has, original_length))
        for attention in (self.attention, self.measured_attention):
            if missing := attention.needs() & self.position.removes:
                rule = f"needs {_WORDS[min(missing)]}, which context/position={self.position.word} switches off"
                raise ConfigError("context/attention", attention.word, rule, "use context/attention=window")
        if self.sampling is not None:
            self._check_sampling(self.sampling.word, has)

    def _check_sampling(self, sampling: str, has: frozenset[str]) -> None:
        """Raises `ConfigError` for an answer that sampled positions would mean nothing to."""
        if not self.attention.is_full:
            counts = "sees positions of its own" if self.attention.rotates else "counts tokens and not positions"
            rule = f"cannot be had with context/attention={self.attention.word}, which {counts}"
            raise ConfigError("context/sampling", sampling, rule, "use context/attention=full")
        if self.position.removes:
            rule = f"cannot be had with context/position={self.position.word}, which leaves no positions to sample"
            remedy = f"use context/position={'interpolate' if 'learned_positions' in has else 'yarn'}"
            raise ConfigError("context/sampling", sampling, rule, remedy)

    def check_length(self, original_length: int) -> None:
        """Raises `ConfigError` for an answer that does not fit the lengths."""
        self.position.check_length(self.target_length, original_length)
        if self.sampling is not None:
            rule = f"is the model's original length: context/sampling={self.sampling.word} has no further positions to sample"
            remedy = f"use {{key}}={4 * original_length}"
            require(self.target_length > original_length, "context.target_length", self.target_length, rule, remedy)
        with inside("context.attention"):
            self.attention.check(self.target_length, original_length)
        if self.evaluation_attention is not None:
            with inside("context.evaluation_attention"):
                self.evaluation_attention.check(self.target_length, original_length)


_WORDS = {
    "rotary": "rotary positions",
    "learned_positions": "a table of learned positions",
    "computed_positions": "positions that are computed and not looked up in a table",
    "causal": "a model that reads from left to right",
    "regions": "attention that goes through the interface of transformers",
}


def _remedy(group: str, missing: frozenset[str], has: frozenset[str], original_length: int) -> str:
    """What does work on such a model, else a model on which it does."""
    if group == "context/attention":
        return "use context/attention=full" if "regions" in missing else "use context/attention=window"
    if "learned_positions" in has:
        return f"use context/position=interpolate, or context=none with context.target_length={original_length}"
    return "use context/position=yarn" if "rotary" in has else "use model=gpt"
