"""Memory and work of a step at any length, from dry runs at the length itself or at two shorter ones.

Where layers repeat, only two shallow networks are run (depth.py). Memory is affine in the length. Work has a part that
grows with the tokens and a part that grows with the query-key pairs, which the attention counts.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elongate.memory.memory import Plan
    from elongate.memory.planner.dry_run import DryRun, Work
    from elongate.models.language_model import LanguageModel

_SMALLEST = 512  # tokens per dry run; smaller sizes do not predict larger ones


class StepCosts:
    """Dry runs of one model, each done once."""

    def __init__(self, model: LanguageModel) -> None:
        from elongate.memory.planner.depth import depths

        self._model = model
        # A table of positions cannot be read past its end.
        self._end = sys.maxsize if "computed_positions" in model.has else model.original_length
        self._depths = depths(model)
        self._done: dict[tuple[Plan, int, int], DryRun] = {}

    def predict(self, plan: Plan, rows: int, length: int) -> tuple[int, Work]:
        """Return the peak in bytes beyond weights and gradients, and the work of a whole step."""
        few = min(rows, 2 * plan.rows(length))  # further rows cost the same
        short, long = self._samples(plan)
        if length <= long:
            done = self._dry_run(plan, few, length)
            return done.peak, _scale(done.work, rows / few)
        first, second = (self._dry_run(plan, few, sample) for sample in (short, long))
        peak = first.peak + (second.peak - first.peak) / (long - short) * (length - short)
        return round(peak), _scale(self._extrapolate(first.work, second.work, short, long, length), rows / few)

    def longest(self, plan: Plan, available: int) -> int:
        """Return the tokens of the longest single sequence whose step fits, a multiple of 64.

        0 if not even a short sequence fits in the available bytes.
        """
        short, long = self._samples(plan)
        sample = self._dry_run(plan, 1, long)
        above = long, sample.peak
        below = short, self._dry_run(plan, 1, short).peak
        while below[1] > available and below[0] > 64:
            # Shorter sequences are batched together, so they do not take less memory.
            length = below[0] // 2
            above, below = below, (length, self._dry_run(plan, plan.rows(length), length).peak)
        if below[1] > available:
            return 0
        share = (available - below[1]) / max(1, above[1] - below[1])
        fits = int(below[0] + share * (above[0] - below[0]))
        if sample.disk:
            fits = min(fits, long * free_disk() // sample.disk)
        return min(fits // 64 * 64, self._end)

    def _samples(self, plan: Plan) -> tuple[int, int]:
        """Return two lengths to extrapolate from, so long that pieces of a fixed size no longer set the peak."""
        tokens = max(plan.fixed_tokens, _SMALLEST)
        return min(4 * tokens, self._end // 2), min(8 * tokens, self._end)

    def _dry_run(self, plan: Plan, rows: int, length: int) -> DryRun:
        key = plan, rows, length
        if key not in self._done:
            self._done[key] = self._run(plan, rows, length)
        return self._done[key]

    def _run(self, plan: Plan, rows: int, length: int) -> DryRun:
        from elongate.memory.planner.depth import composed
        from elongate.memory.planner.dry_run import dry_run

        if self._depths is None:
            return dry_run(self._model, plan, rows, length)
        first, second = (dry_run(self._model, plan, rows, length, depth) for depth in self._depths[:2])
        return composed(first, second, self._depths)

    def _extrapolate(self, first: Work, second: Work, short: int, long: int, length: int) -> Work:
        """Return the work at a length from that at two shorter ones."""
        pairs = {at: seen_pairs(self._model, at) for at in (short, long, length)}
        # Two lengths determine two unknowns: the work per token and the work per pair.
        determinant = short * pairs[long] - long * pairs[short]

        def at_length(one: float, two: float) -> float:
            per_token = (one * pairs[long] - two * pairs[short]) / determinant
            per_pair = (short * two - long * one) / determinant
            return per_token * length + per_pair * pairs[length]

        calls = {*first.flops, *second.flops}
        return replace(
            second,
            flops=Counter({call: at_length(first.flops[call], second.flops[call]) for call in calls}),
            moved=at_length(first.moved, second.moved),
            calls=at_length(first.calls, second.calls),
        )


def free_disk() -> int:
    """Bytes that are free where plans keep files."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def _scale(work: Work, factor: float) -> Work:
    flops = Counter({call: factor * flops for call, flops in work.flops.items()})
    return replace(work, flops=flops, moved=factor * work.moved, calls=factor * work.calls)


def seen_pairs(model: LanguageModel, length: int) -> int:
    """Return the query-key pairs that the attention of all layers computes."""
    from elongate.context.attention.kernel.layer_settings import chunk_size
    from elongate.context.attention.kernel.verification import num_pairs
    from elongate.models.parts import layer_config

    causal, heads = "causal" in model.has, layer_config(model.config).num_attention_heads
    layers = [module for module in model.network.modules() if hasattr(module, "is_causal")]
    limits = Counter((getattr(layer, "sliding_window", None), chunk_size(layer)) for layer in layers)
    total = 0
    for (window, chunks), count in limits.items():
        pattern = model.attention if window is None else model.attention.within_window(window + (not causal))
        if chunks is not None:
            pattern = pattern.within_chunks(chunks)
        total += count * sum(num_pairs(region, heads) for region in pattern.regions(length, heads, causal))
    return total
