"""Tasks of the lm-evaluation-harness: a line for each task and figure, a column for each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.numbers import estimate_text, figure_of, rows_of
from elongate.evaluation.presentation.presentation import Presentation, Results
from elongate.evaluation.presentation.section import MISSING, Column, Table
from elongate.evaluation.presentation.terminal import WIDTH, aligned

_LONGEST_NAME = 30  # characters of a task's name in the terminal


class HarnessPresentation(Presentation):
    """The table of the harness's tasks."""

    word: ClassVar[str] = "lm_eval"
    title: ClassVar[str] = "Tasks of the lm-evaluation-harness"

    def caption(self, section: Results) -> str:
        limit = f", at most {section['limit']} of each task" if section["limit"] else ""
        return (
            f"{section['n']} documents{limit}, prompts and metrics of version {section['harness']}, within {section['length']} tokens: "
            "longer texts are cut from the left. Each figure with its standard error, if the harness computes one."
        )

    def tables(self, section: Results) -> list[Table]:
        columns = [Column("task", is_text=True), Column("version"), Column("examples"), Column("figure", is_text=True)]
        lines = [
            [
                task,
                str(section[task]["version"]),
                str(section[task].get("num_fewshot", MISSING)),
                figure or MISSING,
                *(estimate_text(cell, 3) for cell in cells),
            ]
            for task, figure, cells in _lines(section)
        ]
        return [Table([*columns, *map(Column, _rows(section))], lines)]

    def text(self, section: Results) -> str:
        """Without the standard errors if they would make the table too wide."""
        lines = _text_lines(section, lambda cell: f"{cell:.4g}")
        if max(map(len, lines)) > WIDTH:
            lines = _text_lines(section, lambda cell: f"{cell.mean:.4g}")
        return "\n".join([f"lm-evaluation-harness {section['harness']}, {section['n']:,} documents", "", *lines])


def _rows(section: Results) -> list[str]:
    return rows_of(section[section["tasks"][0]])


def _lines(section: Results) -> list[tuple[str, str, list[Estimate | None]]]:
    """A task or group, one of its figures, and a cell for each row; an empty figure if no row could be measured."""
    lines = []
    for task in section["tasks"]:
        rows = [section[task][row] for row in _rows(section)]
        keys = dict.fromkeys(key for row in rows for key in row if key != "n" and not key.endswith("_standard_error"))
        lines += [(task, figure, [figure_of(row, figure) for row in rows]) for figure in keys or [""]]
    return lines


def _text_lines(section: Results, text: Callable[[Estimate], str]) -> list[str]:
    lines = [["task", "figure", *_rows(section)]]
    for task, figure, cells in _lines(section):
        name = task if len(task) <= _LONGEST_NAME else f"{task[: _LONGEST_NAME - 1]}…"
        lines.append([name, figure or "-", *("-" if cell is None else text(cell) for cell in cells)])
    return aligned(lines)
