"""The pass key: margins by depth and length, and means over the depths."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from elongate.evaluation.presentation.drawings import DepthLines, HeatMap, Matrix
from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.numbers import estimate_text, known, leaves, rows_of
from elongate.evaluation.presentation.presentation import Presentation, Results
from elongate.evaluation.presentation.section import Column, Csv, Figure, Section, Table

MEASURES = ("log_probability", "margin", "exact_match")


class NeedlePresentation(Presentation):
    """The figures, table and sentence of the needle."""

    word: ClassVar[str] = "needle"

    def sections(self, results: Results) -> list[Section]:
        section = results[self.word]
        intro = (
            "A key is hidden at a depth of a long text, and the end of the text asks for it. The margin is the log-probability of the "
            "right key minus that of a wrong one, in nats: above 0 the model prefers what it has read."
        )
        caption = f"Mean over {len(section['depths'])} depths with {section['n']} samples each, with its standard error."
        main = Section(self.heading, intro=intro, figures=self.figures(section), caption=caption, tables=self.tables(section))
        margins = {row: found for row in rows_of(section) if (found := margins_by_depth(section, row))}
        return [main, _by_depth(section, margins)] if margins else [main]

    def figures(self, section: Results) -> list[Figure]:
        rows = {row: section[row] for row in rows_of(section)}
        drawing = HeatMap(
            {name: (_transposed(row["margin"], preference), _transposed(row["exact_match"])) for name, row in rows.items()},
            section["lengths"],
            [f"{depth:.0%}" for depth in section["depths"]],
            places_title="depth of the needle",
            colour_title="right key preferred",
            colour_meaning="probability of the right key if only it and a wrong one are compared",
            line_height=0.36,
            original_length=section["original_length"],
            target_length=section["target_length"],
        )
        shown = "Heat maps of the preference for the right key by depth and length, before and after the extension"
        alt = f"{shown}; the table below has the means."
        return [Figure(drawing, alt, file=self.word)]

    def tables(self, section: Results) -> list[Table]:
        """One line for each length and row, averaged over the depths."""
        measures = {"margin": "margin in nats", "exact_match": "exact match", "log_probability": "log-probability in nats"}
        columns = [Column("length", is_text=True), Column("row", is_text=True), *map(Column, measures.values())]
        lines = [
            [str(length), row, *(estimate_text(needle_of(section, row, measure).get(length), 2) for measure in measures)]
            for length in section["lengths"]
            for row in rows_of(section)
        ]
        return [Table(columns, lines)]

    def csv(self, section: Results) -> Csv:
        columns = [column for measure in MEASURES for column in (measure, f"{measure}_standard_error")]
        lines = [
            (row, length, depth, section["n"], *(section[row][column][i][j] for column in columns))
            for row in rows_of(section)
            for i, length in enumerate(section["lengths"])
            for j, depth in enumerate(section["depths"])
        ]
        return Csv(["row", "length", "depth", "n", *columns], lines)

    def scalars(self, section: Results) -> dict[str, Any]:
        """`after/margin/1024` and the like: means over the depths."""
        means = {
            f"{row}/{measure}/{length}": estimate.mean
            for row in rows_of(section)
            for measure in MEASURES
            for length, estimate in needle_of(section, row, measure).items()
        }
        return leaves(section) | means

    def text(self, section: Results) -> str:
        rows = rows_of(section)
        margins = [needle_of(section, row, "margin") for row in rows]
        matches = [needle_of(section, row, "exact_match") for row in rows]
        table = [["length", "margin in nats", "exact match"]]
        for length in section["lengths"]:
            margin = " → ".join(f"{values[length]:.2f}" if length in values else "-" for values in margins)
            match = " → ".join(f"{values[length].mean:.2f}" if length in values else "-" for values in matches)
            table.append([str(length), margin, match])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [f"{length:>{widths[0]}}   {margin:<{widths[1]}}   {match}" for length, margin, match in table]
        title = f"Needle, {' → '.join(rows)}, mean over {len(section['depths'])} depths with {section['n']} samples each"
        return "\n".join([title, "", *lines])

    def sentences(self, section: Results) -> list[str]:
        """Whether the right answer is preferred at the longest length within the target."""
        row = "after" if "after" in section else "untuned"
        before, after = needle_of(section, "before", "margin"), needle_of(section, row, "margin")
        within = [length for length in after if length <= section["target_length"]]
        if not within:
            return []
        margin, earlier = after[max(within)], before.get(max(within))
        outcome = "the right answer is preferred" if margin.positive else "the right answer is not distinguishably preferred"
        history = f" (before: {earlier:.2f})" if earlier else ""
        return [f"Needle at {max(within)} tokens: {outcome}, margin {margin:.2f} nats{history}."]


def needle_of(section: Results, row: str, measure: str) -> dict[int, Estimate]:
    """A figure by length, averaged over the depths; without lengths that could not be read."""
    if row not in section:
        return {}
    by_length = zip(section["lengths"], section[row][measure], section[row][f"{measure}_standard_error"], strict=True)
    estimates = {length: _mean([known(cell) for cell in cells], errors) for length, cells, errors in by_length}
    return {length: estimate for length, estimate in estimates.items() if estimate is not None}


def margins_by_depth(section: Results, row: str) -> dict[float, Estimate]:
    """The margin at the target length; empty if that length was not measured or could not be read."""
    if row not in section or section["target_length"] not in section["lengths"]:
        return {}
    at_target = section["lengths"].index(section["target_length"])
    cells = zip(section["depths"], section[row]["margin"][at_target], section[row]["margin_standard_error"][at_target], strict=True)
    return {depth: Estimate(margin, known(error)) for depth, margin, error in cells if known(margin) is not None}


def preference(margin: float) -> float:
    """The probability of the right key if the model had to write one of the two: 0.5 for a margin of 0."""
    return 0.5 * (1 + math.tanh(margin / 2))


def _by_depth(section: Results, margins: dict[str, dict[float, Estimate]]) -> Section:
    alt = (
        "The needle's margin in nats by its depth at the target length, a line before and after the extension; needle.csv has the figures."
    )
    caption = (
        f"The needle's margin by its depth in {section['target_length']} tokens. "
        f"A band is ±1 standard error over the {section['n']} samples of a depth."
    )
    return Section("Lost in the middle?", figures=[Figure(DepthLines(margins), alt)], caption=caption)


def _mean(cells: list[float | None], errors: list[float | None]) -> Estimate | None:
    """The mean over depths, whose samples are independent; None unless every depth was measured."""
    values = [cell for cell in cells if cell is not None]
    if len(values) < len(cells):
        return None
    finite = [error for error in map(known, errors) if error is not None]
    error = math.hypot(*finite) / len(cells) if len(finite) == len(cells) else None
    return Estimate(sum(values) / len(values), error)


def _transposed(by_length: list[list[float | None]], scale: Any = float) -> Matrix:
    """[depth][length]."""
    return [[None if known(cell) is None else scale(cell) for cell in column] for column in zip(*by_length, strict=True)]
