"""A context strategy is the answer to three questions: where is each token, who sees whom, and how does the length grow."""

from __future__ import annotations

from dataclasses import dataclass

from elongate.context.attention.attention import Attention
from elongate.context.curriculum.curriculum import Curriculum
from elongate.context.position.position import Position
from elongate.errors import ConfigError, inside, require


@dataclass(frozen=True, kw_only=True)
class Strategy:
    position: Position
    attention: Attention
    curriculum: Curriculum
    target_length: int  # tokens, at least the model's original length
    evaluation_attention: Attention | None = None  # who sees whom when the model is measured; None: as in training

    def __post_init__(self) -> None:
        require(self.target_length > 0, "target_length", self.target_length, "must be at least 1", "use {key}=1024")

    @property
    def measured_attention(self) -> Attention:
        """Who sees whom when the model is measured."""
        return self.attention if self.evaluation_attention is None else self.evaluation_attention

    @property
    def acts_untrained(self) -> bool:
        """Whether it changes a model that is not trained any further."""
        return self.position.word != "none" or self.measured_attention.word != "full"

    def check(self, has: frozenset[str], original_length: int, model: str) -> None:
        """Raises `ConfigError` where the model lacks what an answer needs to act."""
        answers = [("context/position", self.position.word, self.position.needs(self.target_length / original_length))]
        answers += [("context/attention", attention.word, attention.needs()) for attention in (self.attention, self.measured_attention)]
        for group, word, needs in answers:
            if missing := needs - has:
                rule = f"needs {_WORDS[min(missing)]}, which model={model} does not have"
                raise ConfigError(group, word, rule, _REMEDY[group, min(missing)].format(original_length))

    def check_length(self, original_length: int) -> None:
        """Raises `ConfigError` for an attention that does not fit the target length."""
        with inside("context.attention"):
            self.attention.check(self.target_length, original_length)
        if self.evaluation_attention is not None:
            with inside("context.evaluation_attention"):
                self.evaluation_attention.check(self.target_length, original_length)


_WORDS = {
    "rotary": "rotary positions",
    "computed_positions": "positions that are computed and not looked up in a table",
    "causal": "a model that reads from left to right",
}
_REMEDY = {
    ("context/position", "rotary"): "use a rotary model such as model=gpt, or context=none with context.target_length={}",
    ("context/position", "computed_positions"): "use context.target_length={}, or a rotary model such as model=gpt",
    ("context/attention", "rotary"): "use context/attention=window, or a rotary model such as model=gpt",
    ("context/attention", "causal"): "use context/attention=window or global_local",
}
