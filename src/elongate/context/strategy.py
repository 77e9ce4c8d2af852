"""A context strategy answers three questions: where is each token, who sees whom, and how does the length grow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from elongate.context.attention.attention import Attention
from elongate.context.curriculum.curriculum import Curriculum, Stage
from elongate.context.position.position import Position
from elongate.context.sampling.sampling import Sampling
from elongate.errors import ConfigError, inside, require


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """The answers, and the length that a model is extended to."""

    position: Position
    attention: Attention
    curriculum: Curriculum
    target_length: int  # tokens, at least the model's original length
    evaluation_attention: Attention | None = None  # attention when the model is evaluated; None: as in training
    sampling: Sampling | None = None  # how positions of training sequences are sampled; None: they are 0, 1, 2 …
    from_: str = "original"  # frequencies that a checkpoint that was scaled before is scaled from: original or current

    def __post_init__(self) -> None:
        rule = "must be original or current"
        require(self.from_ in ("original", "current"), "from", self.from_, rule, "use {key}=original")
        require(self.target_length > 0, "target_length", self.target_length, "must be at least 1", "use {key}=1024")

    @property
    def measured_attention(self) -> Attention:
        """The attention when the model is evaluated."""
        return self.attention if self.evaluation_attention is None else self.evaluation_attention

    @property
    def acts_untrained(self) -> bool:
        """Whether it changes a model that is not trained any further."""
        return self.position.changes_model or not self.measured_attention.is_full

    def stages(self, original_length: int, steps: int) -> list[Stage]:
        """Stages after the base; sequences with sampled positions are no longer than the original length."""
        stages = self.curriculum.stages(original_length, self.target_length, steps)
        if self.sampling is None:
            return stages
        return [replace(stage, length=min(original_length, stage.length), sampled_below=stage.length) for stage in stages]

    def check(self, has: frozenset[str], original_length: int, model: str) -> None:
        """Raises `ConfigError` if the model lacks a capability that an answer needs."""
        attentions = (self.attention, self.measured_attention)
        answers = [("context/position", self.position.word, self.position.needs(self.target_length / original_length))]
        answers += [("context/attention", attention.word, attention.needs()) for attention in attentions]
        for group, word, needs in answers:
            if missing := needs - has:
                rule = f"needs {_CAPABILITIES[min(missing)]}, which model={model} does not have"
                raise ConfigError(group, word, rule, _remedy(group, missing, has, original_length))
        for attention in attentions:
            if missing := attention.needs() & self.position.removes:
                lost = _CAPABILITIES[min(missing)]
                rule = f"needs {lost}, which context/position={self.position.word} switches off"
                raise ConfigError("context/attention", attention.word, rule, "use context/attention=window")
        if self.sampling is not None:
            self._check_sampling(self.sampling.word, has)

    def _check_sampling(self, sampling: str, has: frozenset[str]) -> None:
        """Raises `ConfigError` for an answer on which sampled positions have no effect, or the wrong one."""
        if not self.attention.is_full:
            reason = "has its own positions" if self.attention.rotates else "counts tokens instead of positions"
            rule = f"cannot be combined with context/attention={self.attention.word}, which {reason}"
            raise ConfigError("context/sampling", sampling, rule, "use context/attention=full")
        if self.position.removes:
            rule = f"cannot be combined with context/position={self.position.word}, which leaves no positions to sample"
            remedy = f"use context/position={'interpolate' if 'learned_positions' in has else 'yarn'}"
            raise ConfigError("context/sampling", sampling, rule, remedy)

    def check_length(self, original_length: int) -> None:
        """Raises `ConfigError` for an answer that does not fit the lengths."""
        self.position.check_length(self.target_length, original_length)
        if self.sampling is not None:
            rule = f"is the model's original length: context/sampling={self.sampling.word} has no further positions to sample"
            remedy = f"use {{key}}={4 * original_length}"
            extends = self.target_length > original_length
            require(extends, "context.target_length", self.target_length, rule, remedy)
        with inside("context.attention"):
            self.attention.check(self.target_length, original_length)
        if self.evaluation_attention is not None:
            with inside("context.evaluation_attention"):
                self.evaluation_attention.check(self.target_length, original_length)


_CAPABILITIES = {
    "rotary": "rotary positions",
    "learned_positions": "a table of learned positions",
    "computed_positions": "positions that are computed and not looked up in a table",
    "causal": "a model that reads from left to right",
    "regions": "attention that goes through the interface of transformers",
}


def _remedy(group: str, missing: frozenset[str], has: frozenset[str], original_length: int) -> str:
    """An answer that works on the model, or a model on which this answer works."""
    if group == "context/attention":
        return "use context/attention=full" if "regions" in missing else "use context/attention=window"
    if "learned_positions" in has:
        return f"use context/position=interpolate, or context=none with context.target_length={original_length}"
    if "rotary" in has:
        return "use context/position=yarn"
    return "use context=none" if "computed_positions" in has else "use model=gpt"
