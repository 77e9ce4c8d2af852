"""The figures of a comparison: losses by bin, reach, needle and costs. Each is a function of the results of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elongate.evaluation.presentation.curve import losses_of
from elongate.evaluation.presentation.drawings import Bin
from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.needle import needle_of
from elongate.evaluation.presentation.numbers import span
from elongate.report.groups import Group
from elongate.report.reach import REACHES, reaches_of

Measure = Callable[[dict[str, Any]], float | None]


@dataclass(frozen=True)
class Column:
    """One figure of every run."""

    key: str  # column name in the CSV
    title: str  # column name on the page
    measure: Measure
    spec: str = ".3f"  # format
    scale: float = 1.0  # factor of the printed value

    def text(self, estimate: Estimate) -> tuple[str, str]:
        """The mean, and `±` with its standard error or an empty string, as printed."""
        scaled = estimate * self.scale
        return format(scaled.mean, f"z{self.spec}"), scaled.error_text(self.spec)


def loss_columns(groups: list[Group]) -> list[Column]:
    """Columns for the loss after and before the extension, in every bin that at least one strategy has."""
    columns = []
    for row in ("after", "before"):
        bins = sorted({bin_ for group in groups for bin_ in group.losses("table", row)})
        columns += [Column(f"{row}_{key_of(bin_)}", f"{row} {span(bin_)}", loss_at(row, bin_)) for bin_ in bins]
    return columns


def key_of(bin_: Bin) -> str:
    """`512_1024`."""
    return f"{bin_[0]}_{bin_[1]}"


def loss_at(row: str, bin_: Bin) -> Measure:
    """The loss of a row in a bin, in nats."""

    def measure(results: dict[str, Any]) -> float | None:
        losses = losses_of(results["curve"]["table"], row) if "curve" in results else {}
        return losses[bin_].mean if bin_ in losses else None

    return measure


def bits_per_byte_at(row: str, length: int) -> Measure:
    """The bits per byte of `perplexity` in a row, with contexts of this many tokens."""

    def measure(results: dict[str, Any]) -> float | None:
        section = results.get("perplexity", {})
        if row not in section or length not in section["lengths"]:
            return None
        value: float | None = section[row]["bits_per_byte"][section["lengths"].index(length)]
        return value

    return measure


def needle_at(measure_name: str, longest: bool, row: str = "after") -> Measure:
    """A figure of the needle in a row, at the target length or at the longest measured one."""

    def measure(results: dict[str, Any]) -> float | None:
        if "needle" not in results:
            return None
        by_length = needle_of(results["needle"], row, measure_name)
        length = max(by_length, default=0) if longest else results["strategy"]["target_length"]
        return by_length[length].mean if length in by_length else None

    return measure


def reach_of(key: str) -> Measure:
    """An effective context or length after the extension, in tokens."""

    def measure(results: dict[str, Any]) -> float | None:
        reach = reaches_of(results, "after").get(key)
        return reach.length if reach else None

    return measure


def budget(key: str) -> Measure:
    """An entry of the budget."""
    return lambda results: results["budget"][key]


def final_training_loss(results: dict[str, Any]) -> float | None:
    """The training loss of the last stage in nats; None without training."""
    return results["stages"][-1]["loss"] if results.get("stages") else None


EXACT_MATCH = Column("needle_exact_match_at_target", "exact match at target", needle_at("exact_match", longest=False), ".2f")
NEEDLE_COLUMNS = [
    Column("needle_margin_at_target", "margin at target", needle_at("margin", longest=False), ".2f"),
    EXACT_MATCH,
    Column("needle_margin_at_longest", "margin at longest", needle_at("margin", longest=True), ".2f"),
    Column("needle_exact_match_at_longest", "exact match at longest", needle_at("exact_match", longest=True), ".2f"),
]

REACH_COLUMNS = [Column(key, title, reach_of(key), ",.0f") for key, title in REACHES.items()]

COST_COLUMNS = [
    Column("tokens", "tokens", budget("tokens"), ",.0f"),
    Column("seconds", "seconds", budget("seconds"), ",.1f"),
    Column("tokens_per_second", "tokens/s", budget("tokens_per_second"), ",.0f"),
    Column("peak_memory_bytes", "peak MiB", budget("peak_memory_bytes"), ",.0f", 2**-20),
    Column("trained_parameters", "trained parameters", budget("trained_parameters"), ",.0f"),
    Column("final_training_loss", "final training loss", final_training_loss),
]
