"""The parts of a page: sections with text, figures and tables. How they look is decided in elongate.report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elongate.evaluation.presentation.drawings import Drawing

MISSING = "–"  # a figure that could not be measured


@dataclass(frozen=True)
class Stacked:
    """A cell of two lines, the lower one in small print."""

    text: str
    below: str


Cell = str | Stacked


@dataclass(frozen=True)
class Column:
    """The head of a column, and how its cells are shown."""

    title: str
    is_text: bool = False  # aligned to the left
    is_short: bool = False  # the title is a number or a range, and is never broken into lines
    group: str = ""  # title above the column, shared with its neighbours
    edge: bool = False  # a line to the left of the column


@dataclass(frozen=True)
class Table:
    """A table; every row has one cell per column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]  # the first cell of a row is its name
    folded: str = ""  # the line under which the table is folded away; empty: it is shown


@dataclass(frozen=True)
class Figure:
    """A drawing with its alternative text."""

    drawing: Drawing
    alt: str  # for readers who do not see the figure
    file: str = ""  # the stem of its file in the run directory, and its name in the tracker; empty: only on the page


@dataclass(frozen=True)
class Section:
    """One part of a page, from top to bottom. Neighbours with the same title share one heading.

    In texts, `code` between backticks is set in a fixed-width font.
    """

    title: str
    subtitle: str = ""
    intro: str = ""
    figures: Sequence[Figure] = ()
    caption: str = ""  # small print
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Csv:
    """A file of all figures."""

    header: Sequence[str]
    lines: Sequence[Sequence[Any]]
