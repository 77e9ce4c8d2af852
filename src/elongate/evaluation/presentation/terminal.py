"""Tables as plain text, at most `WIDTH` columns wide where the figures allow it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from elongate.evaluation.presentation.section import Cell, Stacked, Table

WIDTH = 100


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The cells of each column, aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def table_text(table: Table) -> str:
    """The table as aligned lines, the heads first."""
    heads = [[column.title for column in table.columns]]
    return "\n".join(aligned([*heads, *([_one_line(cell) for cell in row] for row in table.rows)]))


def section_text(title: str, caption: str, tables: Sequence[Table]) -> str:
    """A title, its caption, and the tables that are not folded away."""
    head = textwrap.fill(f"{title}. {caption}" if caption else title, WIDTH)
    return "\n\n".join([head, *(table_text(table) for table in tables if not table.folded)])


def _one_line(cell: Cell) -> str:
    return f"{cell.text} {cell.below}".rstrip() if isinstance(cell, Stacked) else cell
