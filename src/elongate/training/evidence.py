"""The evidence that a strategy is active, in lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from elongate.context.curriculum.curriculum import Stage
from elongate.context.strategy import Strategy
from elongate.training.results import StageRow


def evidence_lines(strategy: Strategy, evidence: dict[str, Any]) -> Iterator[str]:
    """Yields what `LanguageModel.extend` has verified on the built model: the attention, then the positions."""
    attention, kernels = evidence["attention"], evidence["kernels"]
    if not strategy.attention.is_full:
        yield (
            f"attention {attention['word']}: active. {attention['pairs_ratio']:.1%} of the pairs of full attention at length "
            f"{attention['length']}; matches its definition to {attention['output_error']:.0e}"
        )
    word = strategy.position.word
    if "table" in evidence:
        yield f"position {word}: active. {_table(evidence['table'])}"
    if "slopes" in evidence:
        slopes = evidence["slopes"]
        yield (
            f"position {evidence['position']}: active. {len(slopes)} slopes {slopes[0]:.3g} … {slopes[-1]:.3g} per token, "
            f"the model's own positions are switched off; matches its definition to {attention['output_error']:.0e}"
        )
    if "frequencies" in evidence:
        yield f"position {word}: active. {_frequencies(evidence)}"
    elif "rope_parameters" in evidence:
        yield f"position {word}: unchanged from the checkpoint ({evidence['rope_parameters']['rope_type']})"
    if kernels["layers"]:
        layers = ", ".join(f"{count} {name}" for name, count in kernels["layers"].items())
        yield f"kernels {kernels['active']}: active in {layers}; states match transformers to {kernels['state_error']:.0e}"
    elif kernels["reason"]:
        yield f"kernels none: {kernels['reason']}"


def sampling_lines(strategy: Strategy, stages: list[Stage], rows: list[StageRow]) -> Iterator[str]:
    """Yields, for each stage, the positions that the logged steps have sampled."""
    if strategy.sampling is None:
        return
    for stage, row in zip(stages, rows, strict=True):
        seen = f"Positions up to {row.reach - 1} of {stage.reach - 1} were used in sequences of {stage.length} tokens"
        yield f"sampling {strategy.sampling.word}: active. {seen}"


def _table(table: dict[str, Any]) -> str:
    made = f"A table of {table['length']} positions made of {table['original_length']}"
    return f"{made}; matches the closed form to {table['row_error']:.0e}"


def _frequencies(evidence: dict[str, Any]) -> str:
    values = evidence["frequencies"]
    return (
        f"{len(values)} frequencies {values[0]:.3g} … {values[-1]:.3g} rad/token, attention factor {evidence['attention_factor']:.4g}; "
        f"frequencies match the closed form to {evidence['frequency_error']:.0e}, cosines to {evidence['angle_error']:.0e}"
    )
