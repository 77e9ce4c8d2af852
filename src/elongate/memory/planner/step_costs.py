"""Memory and work of a step at any length, from dry runs at the length itself or at two shorter ones.

Where layers repeat, only two shallow networks are run (depth.py). Memory is affine in the length. Work has a part that
grows with the tokens and a part that grows with the query-key pairs, which the attention counts.
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from elongate.memory.planner.dry_run import Work

if TYPE_CHECKING:
    from elongate.memory.memory import Plan
    from elongate.memory.planner.cards import Card
    from elongate.memory.planner.dry_run import Call, DryRun
    from elongate.memory.planner.hollow import Outlines
    from elongate.models.language_model import LanguageModel

_SMALLEST = 512  # tokens of a piece in a dry run; smaller sizes do not predict larger ones
_PIECES = 3, 4  # in the two dry runs from which a longer one is predicted; the first and the last piece are special


_PER_TOKEN = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default}  # others may also grow with the pairs


class StepCosts:
    """Dry runs of one model, each done once."""

    def __init__(self, model: LanguageModel, card: Card | None = None) -> None:
        from elongate.memory.planner.depth import depths
        from elongate.memory.planner.dry_run import shallow

        self._model, self._card = model, card
        # A table of positions cannot be read past its end.
        self._end = sys.maxsize if "computed_positions" in model.has else model.original_length
        self._depths = depths(model)
        self._actors = [model] if self._depths is None else [shallow(model, depth) for depth in self._depths[:2]]
        self._outlines: Outlines = {}  # of the calls of all dry runs
        self._done: dict[tuple[Plan, int, int], DryRun] = {}

    def predict(self, plan: Plan, rows: int, length: int) -> tuple[int, Work]:
        """Return the peak in bytes beyond weights and gradients, and the work of a whole step."""
        few = min(rows, plan.rows(length))  # further rows cost the same
        short, long = self._samples(plan)
        if length <= long:
            done = self._dry_run(plan, few, length)
            return done.peak, _scale(done.work, rows / few)
        first, second = (self._dry_run(plan, few, sample) for sample in (short, long))
        peak = max(line.at(length) for line in _lines(first, second, short, long))
        return round(peak), _scale(self._extrapolate(first.work, second.work, short, long, length), rows / few)

    def longest(self, plan: Plan, available: int) -> int:
        """Return the tokens of the longest single sequence whose step fits, a multiple of 64.

        0 if not even a short sequence fits in the available bytes.
        """
        if available <= 0:
            return 0
        short, long = self._samples(plan)
        sample = self._dry_run(plan, 1, long)
        above, below = (long, sample), (short, self._dry_run(plan, 1, short))
        while below[1].peak > available and below[0] > 64:
            # Shorter sequences are batched together, so they do not take less memory.
            length = below[0] // 2
            above, below = below, (length, self._dry_run(plan, plan.rows(length), length))
        if below[1].peak > available:
            return 0
        fits = int(min(line.reach(available) for line in _lines(below[1], above[1], below[0], above[0])))
        if sample.disk:
            fits = min(fits, long * free_disk() // sample.disk)
        return min(fits // 64 * 64, self._end)

    def _samples(self, plan: Plan) -> tuple[int, int]:
        """Return two lengths to extrapolate from, so long that they are computed in several pieces of a fixed size."""
        tokens = max(plan.fixed_tokens, _SMALLEST)
        return min(_PIECES[0] * tokens, self._end // 2), min(_PIECES[1] * tokens, self._end)

    def _dry_run(self, plan: Plan, rows: int, length: int) -> DryRun:
        key = plan, rows, length
        if key not in self._done:
            self._done[key] = self._run(plan, rows, length)
        return self._done[key]

    def _run(self, plan: Plan, rows: int, length: int) -> DryRun:
        from elongate.memory.planner.card_answers import card_answers
        from elongate.memory.planner.depth import composed
        from elongate.memory.planner.dry_run import dry_run

        with card_answers(self._model.device, self._card), _without_collector():
            runs = [dry_run(actor, plan, rows, length, outlines=self._outlines) for actor in self._actors]
        return runs[0] if self._depths is None else composed(runs[0], runs[1], self._depths)

    def _extrapolate(self, first: Work, second: Work, short: int, long: int, length: int) -> Work:
        """Return the work at a length from that at two shorter ones."""
        at = short, long, length
        affine, quadratic = _weights((1, 1, 1), at), _weights(at, tuple(seen_pairs(self._model, tokens) for tokens in at))
        flops = {}
        totals = [_by_function(work.flops) for work in (first, second)]
        for call, share in second.flops.items():
            # Sizes differ between the two runs, so only the totals of a function can be compared.
            one, two = (total[call.function] for total in totals)
            weights = affine if call.function in _PER_TOKEN else quadratic
            flops[call] = share / two * (weights[0] * one + weights[1] * two)
        moved, calls = (affine[0] * one + affine[1] * two for one, two in ((first.moved, second.moved), (first.calls, second.calls)))
        return Work(Counter(flops), moved, calls)


def _weights(some: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, float]:
    """Return the weights of the first two values of a sum of two functions, given at three places, in the third value."""
    determinant = some[0] * other[1] - some[1] * other[0]
    return (some[2] * other[1] - some[1] * other[2]) / determinant, (some[0] * other[2] - some[2] * other[0]) / determinant


def _by_function(flops: Counter[Call]) -> Counter[Any]:
    totals: Counter[Any] = Counter()
    for call, amount in flops.items():
        totals[call.function] += amount
    return totals


@dataclass(frozen=True)
class _Line:
    """The bytes after the calls of an operator, which are affine in the length."""

    start: float
    slope: float  # per token

    def at(self, length: int) -> float:
        return self.start + self.slope * length

    def reach(self, size: float) -> float:
        """Return the length at which they reach a size."""
        return (size - self.start) / self.slope if self.slope > 0 else sys.maxsize


def _lines(first: DryRun, second: DryRun, short: int, long: int) -> list[_Line]:
    """Return a line for each operator: at another length, the peak may be at another one."""
    lines = []
    for name, most in second.peaks.items():
        slope = (most - first.peaks.get(name, most)) / (long - short)
        lines.append(_Line(most - slope * long, slope))
    return lines


@contextmanager
def _without_collector() -> Iterator[None]:
    """Leave out Python's searches for cycles: a dry run makes many objects and few cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
