"""A context strategy is the answer to three questions: where is each token, who sees whom, and how does the length grow."""

from __future__ import annotations

from dataclasses import dataclass

from elongate.context.attention.attention import Attention
from elongate.context.curriculum.curriculum import Curriculum
from elongate.context.position.position import Position
from elongate.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class Strategy:
    position: Position
    attention: Attention
    curriculum: Curriculum
    target_length: int  # tokens, at least the model's original length

    def __post_init__(self) -> None:
        require(self.target_length > 0, "target_length", self.target_length, "must be at least 1", "use {key}=1024")

    def check(self, has: frozenset[str], original_length: int, model: str) -> None:
        """Raises `ConfigError` where the model lacks what the position needs to act."""
        if missing := self.position.needs(self.target_length / original_length) - has:
            rule = f"needs {_WORDS[min(missing)]}, which model={model} does not have"
            raise ConfigError("context/position", self.position.word, rule, _REMEDY[min(missing)].format(original_length))


_WORDS = {"rotary": "rotary positions", "computed_positions": "positions that are computed and not looked up in a table"}
_REMEDY = {
    "rotary": "use a rotary model such as model=gpt, or context=none with context.target_length={}",
    "computed_positions": "use context.target_length={}, or a rotary model such as model=gpt",
}
