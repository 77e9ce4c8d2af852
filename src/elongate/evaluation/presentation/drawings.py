"""What a figure shows, as numbers. elongate.report.figures draws it with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elongate.evaluation.presentation.estimate import Estimate

Bin = tuple[int, int]  # start and end in tokens, the end not included
Matrix = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class PositionCurves:
    """Loss by position, a line for each row, with bands of ±1 standard error."""

    rows: Mapping[str, Mapping[Bin, Estimate]]
    edges: Sequence[int]
    original_length: int
    target_length: int


@dataclass(frozen=True)
class HeatMap:
    """Panels side by side, with lengths from left to right.

    Colours go from 0 to 1 with chance, 0.5, in the middle. The scale is the same in every run, so that noise
    around chance is pale.
    """

    panels: Mapping[str, tuple[Matrix, Matrix]]  # by row: colours and numbers of the cells, [place][length]
    lengths: Sequence[int]
    places: Sequence[str]  # names of the lines, from top to bottom
    places_title: str
    colour_title: str  # next to the scale
    colour_meaning: str  # below the figure
    line_height: float  # inches
    original_length: int
    target_length: int


@dataclass(frozen=True)
class DepthLines:
    """The margin of the needle by its depth, a line for each row."""

    rows: Mapping[str, Mapping[float, Estimate]]


@dataclass(frozen=True)
class Reach:
    """Tokens, from `low` to `high`; 0 if not even the shortest length is used."""

    length: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{self.length:,.0f}" if self.length else "none"

    @property
    def interval_text(self) -> str:
        """`256–1,024`, or an empty string if the interval has no width."""
        return f"{self.low:,.0f}–{self.high:,.0f}" if self.low < self.high else ""


@dataclass(frozen=True)
class ReachBars:
    """How far back a text is used: horizontal bars, a group for each row, a bar for each kind of reach."""

    rows: Mapping[str, Mapping[str, Reach]]
    original_length: int
    target_length: int


Drawing = PositionCurves | HeatMap | DepthLines | ReachBars
