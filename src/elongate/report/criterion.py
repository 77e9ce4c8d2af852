"""The figure that decides the order of a comparison.

1. The exact match of the needle at the target length, if every strategy has it and one of them retrieves: a strategy can
   predict the next token as well as another without using the text that the extension is for.
2. The loss in the last bin that every strategy has within its target length.
3. Bits per byte, instead of the loss, if the strategies read different tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from elongate.evaluation.presentation.drawings import Bin
from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.numbers import span
from elongate.report.estimate import mean_over
from elongate.report.fairness import same_texts, same_tokens
from elongate.report.groups import Group
from elongate.report.measures import EXACT_MATCH, Column, Measure, bits_per_byte_at, key_of, loss_at, needle_at

RETRIEVES = 0.1  # share of exact matches from which a strategy retrieves


@dataclass(frozen=True)
class Criterion:
    """A figure by which strategies are ranked."""

    column: Column  # the figure after the extension
    name: str  # with its place, as a title: `loss at 512-1024 tokens`
    praise: str  # what the best has: `the lowest loss`
    place: str  # `512-1024 tokens`
    cost: str  # the figure, or its complement, such that the smaller one is better
    unit: str  # after a value; empty for a share
    of_row: Callable[[str], Measure]  # the figure before, untuned or after the extension
    higher_is_better: bool = False
    bin: Bin | None = None  # of a loss

    def values(self, group: Group) -> dict[int, float]:
        """The figure after the extension by seed, with the sign that makes the smaller one better."""
        sign = -1 if self.higher_is_better else 1
        return {seed: sign * value for seed, value in group.values(self.column.measure).items()}

    def as_cost(self, estimate: Estimate) -> Estimate:
        """The estimate as `cost`: the complement of a share that is better if higher."""
        return replace(estimate, mean=1 - estimate.mean) if self.higher_is_better else estimate

    def before(self, group: Group) -> Estimate | None:
        """The figure before the extension; None if it was not measured, or the base cannot read that far."""
        return mean_over(list(group.values(self.of_row("before")).values()))


def criterion_of(groups: list[Group]) -> Criterion | None:
    """What decides between the groups; None if nothing does, because no figure is comparable."""
    if found := _retrieval(groups):
        return found
    if not same_tokens(groups):
        return _bits_per_byte(groups)
    return _loss(groups) if same_texts(groups) else None


def _retrieval(groups: list[Group]) -> Criterion | None:
    column = EXACT_MATCH
    shares = [mean_over(list(group.values(column.measure).values())) for group in groups]
    targets = {group.first.results["strategy"]["target_length"] for group in groups}
    if len(targets) > 1 or any(share is None for share in shares) or max(share.mean for share in shares if share) < RETRIEVES:
        return None
    place = f"{targets.pop()} tokens"
    return Criterion(
        column,
        name=f"exact match at {place}",
        praise="the highest exact match of the needle",
        place=place,
        cost="share of keys that are not retrieved",
        unit="",
        of_row=lambda row: needle_at("exact_match", longest=False, row=row),
        higher_is_better=True,
    )


def _loss(groups: list[Group]) -> Criterion | None:
    """The loss in the last bin that every measured strategy has within its target length."""
    shared: set[Bin] | None = None
    for group in groups:
        if losses := group.losses("table", "after"):
            target_length = group.first.results["curve"]["target_length"]
            within = {bin_ for bin_ in losses if bin_[1] <= target_length}
            shared = within if shared is None else shared & within
    if not shared:
        return None
    bin_ = max(shared)
    column = Column(f"after_{key_of(bin_)}", f"after {span(bin_)}", loss_at("after", bin_))
    return Criterion(
        column,
        name=f"loss at {span(bin_)}",
        praise="the lowest loss",
        place=f"{span(bin_)} tokens",
        cost="loss",
        unit="nats",
        of_row=lambda row: loss_at(row, bin_),
        bin=bin_,
    )


def _bits_per_byte(groups: list[Group]) -> Criterion | None:
    """Bits per byte at the longest length within the target that `perplexity` has measured for every strategy."""
    lengths = [
        {length for length in group.first.results.get("perplexity", {}).get("lengths", ()) if length <= _target_length(group)}
        for group in groups
    ]
    if not (shared := set.intersection(*lengths)):
        return None
    length = max(shared)
    column = Column("bits_per_byte", f"bits per byte at {length}", bits_per_byte_at("after", length))
    return Criterion(
        column,
        name=column.title,
        praise="the fewest bits per byte",
        place=f"{length} tokens",
        cost="number of bits per byte",
        unit="bits per byte",
        of_row=lambda row: bits_per_byte_at(row, length),
    )


def _target_length(group: Group) -> int:
    return int(group.first.results["strategy"]["target_length"])
