"""Retrieval: shares of right answers by task and length, effective lengths, and what the answers cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from elongate.evaluation.presentation.drawings import HeatMap, Reach
from elongate.evaluation.presentation.numbers import duration, leaves, mebibytes, rows_of
from elongate.evaluation.presentation.presentation import Presentation, Results
from elongate.evaluation.presentation.section import MISSING, Column, Csv, Figure, Section, Table
from elongate.evaluation.presentation.terminal import aligned

MEASURES = {"preferred": "preferred", "exact_match": "written exactly", "named": "named"}
COSTS = ("seconds", "tokens_per_second", "flops", "peak_memory_bytes", "seconds_per_right")
ALL = "all"  # all tasks together


class RetrievalPresentation(Presentation):
    """The heat map, tables and scalars of retrieval."""

    word: ClassVar[str] = "retrieval"

    def sections(self, results: Results) -> list[Section]:
        section = results[self.word]
        return [Section(self.heading, intro=_intro(section), figures=self.figures(section), tables=self.tables(section))]

    def figures(self, section: Results) -> list[Figure]:
        tasks = tasks_of(section)
        drawing = HeatMap(
            {
                row: ([section[task][row]["preferred"] for task in tasks], [section[task][row]["exact_match"] for task in tasks])
                for row in retrieval_rows(section)
            },
            section["lengths"],
            [task.replace("_", " ") for task in tasks],
            places_title="",
            colour_title="right answer preferred",
            colour_meaning="share of answers preferred to a wrong one",
            line_height=0.3,
            original_length=section["original_length"],
            target_length=section["target_length"],
        )
        shown = "Heat maps of the share of answers that are preferred, by task and length, before and after the extension"
        alt = f"{shown}; the table below has the figures."
        return [Figure(drawing, alt, file=self.word)]

    def tables(self, section: Results) -> list[Table]:
        return [_shares(section), _costs(section)]

    def csv(self, section: Results) -> Csv:
        measures = section["measures"]
        header = ["task", "row", "length", "n", *(f"{m}{end}" for m in measures for end in ("", "_low", "_high")), *COSTS]
        lines = []
        for task in tasks_of(section):
            n = section["n"] * (len(section["tasks"]) if task == ALL else 1)
            for row in retrieval_rows(section):
                figures = section[task][row]
                for i, length in enumerate(section["lengths"]):
                    cells = [(figures[m][i], *(figures[f"{m}_interval"][i] or (None, None))) for m in measures]
                    costs = (figures["costs"][i][name] for name in COSTS)
                    lines.append((task, row, length, n, *(value for cell in cells for value in cell), *costs))
        return Csv(header, lines)

    def scalars(self, section: Results) -> dict[str, Any]:
        """`passkey/after/preferred/1024` and the like."""
        shares = {
            f"{task}/{row}/{measure}/{length}": share
            for task in tasks_of(section)
            for row in retrieval_rows(section)
            for measure in section["measures"]
            for length, share in zip(section["lengths"], section[task][row][measure], strict=True)
            if share is not None
        }
        return leaves(section) | shares

    def text(self, section: Results) -> str:
        rows = retrieval_rows(section)
        lines = [["preferred", *map(str, section["lengths"]), "exact match"]]
        for task in tasks_of(section):
            figures = [section[task][row] for row in rows]
            preferred = [[_percent(row["preferred"][i], "-") for row in figures] for i in range(len(section["lengths"]))]
            exact = [_percent(row["exact_match"][0], "-") for row in figures]
            lines.append([task.replace("_", " "), *(" → ".join(cells) for cells in preferred), " → ".join(exact)])
        title = f"Retrieval, {' → '.join(rows)}: % of {section['n']} answers preferred to a wrong one (chance: 50), by length"
        return "\n".join([title, f"and written exactly at {section['lengths'][0]} tokens", "", *aligned(lines)])


def tasks_of(section: Results) -> list[str]:
    """The tasks, and `all` of them together last."""
    return [*section["tasks"], *([ALL] if ALL in section else [])]


def retrieval_rows(section: Results) -> list[str]:
    """The rows that were measured, in the order of a run."""
    return rows_of(section[section["tasks"][0]])


def effective_lengths(section: Results, row: str) -> dict[str, Reach]:
    """By measure: the effective length of all tasks together, or of the only task; empty without the row."""
    tasks = section.get("tasks", [])
    figures = section.get(tasks[0] if len(tasks) == 1 else ALL, {}).get(row, {"effective_length": {}})
    return {
        f"retrieval_{name}_effective_length": Reach(length, length, length)
        for name, length in figures["effective_length"].items()
        if _has_enough(figures, name)
    }


def _has_enough(figures: Results, measure: str) -> bool:
    """Whether right answers to all questions would show an effective length. Older results do not say so."""
    return bool(figures.get("enough_samples", {}).get(measure, True))


def _intro(section: Results) -> str:
    count = len(section["tasks"])
    together = f", that of all tasks together {section['n'] * count}" if count > 1 else ""
    named = ", or its values are named in what it writes" if "named" in section["measures"] else ""
    threshold = "85.6%" if section["threshold"] == "ruler" else "85% of the share at the shortest length"
    return (
        f"Questions whose answers are in the text. The share of a task is over {section['n']} samples at {len(section['depths'])} "
        f"depths{together}: the right answer is preferred to a wrong one (by chance: half), or is exactly what the model writes{named}. "
        f"The effective length is the largest one up to which the lower end of the 95% interval stays above {threshold}; "
        f"with too few samples it would stay below it even if all answers were right."
    )


def _shares(section: Results) -> Table:
    columns = [Column("task", is_text=True), Column("row", is_text=True)]
    for measure in section["measures"]:
        group = f"{MEASURES[measure]}, at a length of"
        columns += [Column(str(length), is_short=True, group=group, edge=i == 0) for i, length in enumerate(section["lengths"])]
        columns.append(Column("effective", is_short=True, group=group))
    lines = []
    for task in tasks_of(section):
        for row in retrieval_rows(section):
            figures, line = section[task][row], [task.replace("_", " "), row]
            for measure in section["measures"]:
                line += [f"{_percent(share, MISSING)}{'' if share is None else '%'}" for share in figures[measure]]
                none = "none" if _has_enough(figures, measure) else "too few samples"
                line.append(str(figures["effective_length"][measure] or none))
            lines.append(line)
    return Table(columns, lines)


def _costs(section: Results) -> Table:
    """A line for each row and length, over all tasks."""
    task = tasks_of(section)[-1]
    heads = ("length", "time", "tokens/s", "FLOPs", "peak memory", "time for each answer written exactly")
    lines = [
        [row, str(length), *_cost_cells(cost)]
        for row in retrieval_rows(section)
        for length, cost in zip(section["lengths"], section[task][row]["costs"], strict=True)
    ]
    return Table([Column("row", is_text=True), *map(Column, heads)], lines, folded="Costs by length")


def _cost_cells(cost: Mapping[str, float | None]) -> list[str]:
    seconds, speed, flops, memory, right = (cost[name] for name in COSTS)
    if seconds is None or speed is None or flops is None or memory is None:
        return [MISSING] * 5
    each = "none is right" if right is None else duration(right)
    return [duration(seconds), f"{speed:,.0f}", f"{flops:.2e}", mebibytes(memory), each]


def _percent(share: float | None, missing: str) -> str:
    return missing if share is None else f"{100 * share:.0f}"
