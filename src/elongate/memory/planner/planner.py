"""Predicts what a step costs under each memory plan: memory, FLOPs, seconds, and the longest sequence that fits.

A step is dry-run (dry_run.py) at the length itself, or at two shorter lengths if that would take long. Memory is affine in the length;
work has a part that grows with the tokens and a part that grows with the query-key pairs, which the attention counts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream

if TYPE_CHECKING:
    from elongate.memory.planner.dry_run import Rehearsal, Work
    from elongate.models.language_model import LanguageModel

MARGIN = 0.1  # share of the free memory that is left unused
_ALIKE = 0.05  # plans whose times differ by less than this share count as equally fast; the first is chosen
_SMALLEST = 512  # tokens per dry run; smaller sizes do not predict larger ones


@dataclass(frozen=True)
class Estimate:
    plan: Memory
    peak: int  # bytes beyond weights, gradients and optimizer state
    flops: float  # of a step
    seconds: float  # of a step

    @property
    def word(self) -> str:
        return describe(self.plan)


@dataclass(frozen=True)
class Advice:
    length: int  # tokens of a sequence
    rows: int  # sequences in a step
    weights: int  # bytes
    gradients: int  # bytes
    optimizer: int  # bytes of its state
    free: int  # free bytes after loading the weights
    estimates: tuple[Estimate, ...]  # the simplest plan first
    longest: Callable[[Memory], int]  # tokens of a sequence that fits

    @property
    def room(self) -> int:
        """Bytes that are left for a step beyond weights, gradients and optimizer state."""
        return round((1 - MARGIN) * self.free) - self.gradients - self.optimizer

    @property
    def recommended(self) -> Estimate | None:
        """The fastest plan that fits; None if no plan fits."""
        fitting = [estimate for estimate in self.estimates if estimate.peak <= self.room]
        quickest = min((estimate.seconds for estimate in fitting), default=0.0)
        return next((estimate for estimate in fitting if estimate.seconds <= (1 + _ALIKE) * quickest), None)

    def refusal(self) -> ConfigError:
        """The error for the case that no plan fits."""
        least = min(self.estimates, key=lambda estimate: estimate.peak)
        longest, plan = max(((self.longest(e.plan), e.plan) for e in self.estimates), key=lambda found: found[0])
        rule = (
            f"fits under no memory plan: the least, {least.word}, takes {gib(least.peak)} besides {gib(self.gradients)} of gradients and "
            f"{gib(self.optimizer)} of optimizer state, and {gib(self.free)} are free"
        )
        remedy = f"use {{key}}={longest} at most, with {describe(plan)}" if longest else "use a smaller model, tuning=lora or more memory"
        return ConfigError("context.target_length", self.length, rule, remedy)


def advise(model: LanguageModel, length: int, batch_rows: int | None = None, chosen: Memory | None = None) -> Advice:
    """The cost of every plan.

    `batch_rows`: sequences in a step; None: as many as any plan computes together. `chosen`: a plan whose settings are kept.
    Assumes the optimizer state of AdamW, the largest available.
    """
    from elongate.memory.planner.free_memory import free_bytes
    from elongate.memory.planner.throughput import seconds_of

    steps = Steps(model)
    estimates, plans = [], _plans(model, length, chosen)
    rows = batch_rows or max(plan.rows(length) for plan in plans)
    for plan in plans:
        peak, work = steps.at(plan, rows, length)
        estimates.append(Estimate(plan, peak, float(work.flops.total()), seconds_of(work, model.device)))
    weights = sum(p.numel() * p.element_size() for p in model.network.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters())
    free = free_bytes(model.device)
    room = round((1 - MARGIN) * free) - 3 * trained
    return Advice(length, rows, weights, trained, 2 * trained, free, tuple(estimates), lambda plan: steps.longest(plan, room))


def describe(plan: Memory) -> str:
    """The overrides that select the plan; default settings are left out."""
    changed = {f.name: getattr(plan, f.name) for f in fields(plan) if getattr(plan, f.name) != f.default}  # type: ignore[arg-type]  # a dataclass
    return " ".join([f"memory={plan.word}", *(f"memory.{key}={str(value).lower()}" for key, value in changed.items())])


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size} bytes"


def _plans(model: LanguageModel, length: int, chosen: Memory | None) -> list[Memory]:
    """All plans that can train this model, the simplest first."""
    checkpoint = chosen if isinstance(chosen, Checkpoint) else Checkpoint()
    stream = chosen if isinstance(chosen, Stream) else Stream()
    every: list[Memory] = [chosen if isinstance(chosen, Plain) else Plain()]
    for keep in (True, False):
        every += [replace(checkpoint, keep_attention=keep), replace(stream, keep_attention=keep)]
    # Last, for what fits no other way: the time of file access is not predicted.
    every.append(replace(stream, keep_attention=False, on_disk=True))
    return [plan for plan in dict.fromkeys(every) if (plan == chosen or plan.helps(length)) and _can_train(plan, model)]


def _can_train(plan: Memory, model: LanguageModel) -> bool:
    try:
        plan.check_model(model)
    except ConfigError:
        return False
    return True


class Steps:
    """Dry runs of one model, each done once."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        # A table of positions cannot be read past its end.
        self._end = sys.maxsize if "computed_positions" in model.has else model.original_length
        self._done: dict[tuple[Memory, int, int], Rehearsal] = {}

    def at(self, plan: Memory, rows: int, length: int) -> tuple[int, Work]:
        """Peak bytes beyond weights and gradients, and the work of a whole step."""
        few = min(rows, 2 * plan.rows(length))  # further rows cost the same
        short, long = self._samples(plan)
        if length <= long:
            done = self._rehearsed(plan, few, length)
            return done.peak, _times(done.work, rows / few)
        first, second = (self._rehearsed(plan, few, sample) for sample in (short, long))
        peak = _affine(length, (short, first.peak), (long, second.peak))
        return round(peak), _times(self._grown(first.work, second.work, short, long, length), rows / few)

    def longest(self, plan: Memory, room: int) -> int:
        """Tokens of the longest single sequence whose step fits, a multiple of 64; 0 if not even a short one fits."""
        short, long = self._samples(plan)
        above = long, self._rehearsed(plan, 1, long).peak
        below = short, self._rehearsed(plan, 1, short).peak
        while below[1] > room and below[0] > 64:
            # Shorter sequences are batched together, so they do not take less memory.
            length = below[0] // 2
            above, below = below, (length, self._rehearsed(plan, plan.rows(length), length).peak)
        if below[1] > room:
            return 0
        share = (room - below[1]) / max(1, above[1] - below[1])
        return min(int(below[0] + share * (above[0] - below[0])) // 64 * 64, self._end)

    def _samples(self, plan: Memory) -> tuple[int, int]:
        """Two lengths to extrapolate from, long enough that buffers of constant size no longer set the peak."""
        # Plain training computes a whole sequence together and has no buffers of constant size.
        tokens = _SMALLEST if isinstance(plan, Plain) else max(plan.tokens_at_once, _SMALLEST)
        return min(4 * tokens, self._end // 2), min(8 * tokens, self._end)

    def _rehearsed(self, plan: Memory, rows: int, length: int) -> Rehearsal:
        from elongate.memory.planner.dry_run import rehearse

        key = plan, rows, length
        if key not in self._done:
            self._done[key] = rehearse(self._model, plan, rows, length)
        return self._done[key]

    def _grown(self, first: Work, second: Work, short: int, long: int, length: int) -> Work:
        """The work at a length, extrapolated from two shorter ones."""
        pairs = {at: _pairs(self._model, at) for at in (short, long, length)}
        # Two lengths determine two unknowns: the work per token and the work per pair.
        determinant = short * pairs[long] - long * pairs[short]

        def at(one: float, two: float) -> float:
            of_token = (one * pairs[long] - two * pairs[short]) / determinant
            of_pair = (short * two - long * one) / determinant
            return of_token * length + of_pair * pairs[length]

        return replace(
            second,
            flops=Counter({call: at(first.flops[call], second.flops[call]) for call in {*first.flops, *second.flops}}),
            moved=at(first.moved, second.moved),
            calls=at(first.calls, second.calls),
        )


def _affine(x: float, *points: tuple[int, int]) -> float:
    (x0, y0), (x1, y1) = points
    return y0 + (y1 - y0) / (x1 - x0) * (x - x0)


def _times(work: Work, factor: float) -> Work:
    flops = Counter({call: factor * flops for call, flops in work.flops.items()})
    return replace(work, flops=flops, moved=factor * work.moved, calls=factor * work.calls)


def _pairs(model: LanguageModel, length: int) -> int:
    """Query-key pairs that the attention of all layers computes."""
    from elongate.context.attention.kernel.verification import num_pairs

    causal, heads = "causal" in model.has, model.network.config.num_attention_heads
    windows = Counter(getattr(module, "sliding_window", None) for module in model.network.modules() if hasattr(module, "is_causal"))
    total = 0
    for window, layers in windows.items():
        attention = model.attention if window is None else model.attention.narrowed(window + (not causal))
        assert attention is not None, "checked when the model was built"
        total += layers * sum(num_pairs(region, heads) for region in attention.regions(length, heads, causal))
    return total
