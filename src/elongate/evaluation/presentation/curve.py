"""Loss by position: a curve, a table of wide bins, and sentences on what the extension changed.

The sentences compare two bins: the last one within the original length, and the last one beyond it within the
target length. Rows are measured on the same documents but stored without their covariance, so the test (2
standard errors of a difference of independent means) is cautious: it calls a small change indistinguishable
rather than real.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, ClassVar

from elongate.evaluation.presentation.drawings import Bin, PositionCurves
from elongate.evaluation.presentation.estimate import Estimate
from elongate.evaluation.presentation.numbers import known, leaves, rows_of, span
from elongate.evaluation.presentation.presentation import Presentation, Results
from elongate.evaluation.presentation.section import MISSING, Cell, Column, Csv, Figure, Section, Stacked, Table
from elongate.evaluation.presentation.terminal import WIDTH

AS_TRAINED = "as trained"

Losses = Mapping[Bin, Estimate]


class CurvePresentation(Presentation):
    """The figure, table and sentences of the curve."""

    word: ClassVar[str] = "curve"
    title: ClassVar[str] = "Loss by position"

    def sections(self, results: Results) -> list[Section]:
        section = results[self.word]
        untuned = ", “untuned” the same weights with the strategy on" if "untuned" in section["table"] else ""
        caption = (
            f"Nats, mean over {section['n']} held-out documents with its standard error. "
            f"“before” is the model as trained at {section['original_length']} tokens{untuned}."
        )
        return [Section(self.title, figures=self.figures(section), caption=caption, tables=self.tables(section))]

    def figures(self, section: Results) -> list[Figure]:
        fine = section["fine"]
        rows = {row: losses_of(fine, row) for row in rows_of(fine)}
        drawing = PositionCurves(rows, fine["edges"], section["original_length"], section["target_length"])
        alt = "Loss in nats by position in tokens, before and after the extension; the table below has the figures."
        return [Figure(drawing, alt, file=self.word)]

    def tables(self, section: Results) -> list[Table]:
        bins = bins_of(section["table"])
        columns = [Column("tokens", is_text=True)]
        for name, group in groupby(bins, lambda bin_: _region(bin_, section)):
            for i, bin_ in enumerate(group):
                columns.append(Column(span(bin_), is_short=True, group=name, edge=i == 0 and len(columns) > 1))
        lines = []
        for row in rows_of(section["table"]):
            losses = losses_of(section["table"], row)
            lines.append([row, *(_cell(losses.get(bin_)) for bin_ in bins)])
        return [Table(columns, lines)]

    def csv(self, section: Results) -> Csv:
        part = section["fine"]
        lines = [
            (row, start, end, loss, error)
            for row in rows_of(part)
            for (start, end), loss, error in zip(bins_of(part), part[row]["loss"], part[row]["standard_error"], strict=True)
        ]
        return Csv(["row", "start", "end", "loss", "standard_error"], lines)

    def scalars(self, section: Results) -> dict[str, Any]:
        """`after/512-1024` and the like."""
        table = section["table"]
        losses = {f"{row}/{span(bin_)}": loss.mean for row in rows_of(table) for bin_, loss in losses_of(table, row).items()}
        return leaves(section) | losses

    def text(self, section: Results) -> str:
        """One column for each bin, the standard error below the loss; columns that do not fit follow below."""
        blocks = [f"Loss in nats by position, ± standard error over {section['n']} documents"]
        remaining = bins_of(section["table"])
        while remaining:
            count = len(remaining)
            while count > 1 and max(map(len, _text_lines(section, remaining[:count]))) > WIDTH:
                count -= 1
            blocks.append("\n".join(line.rstrip() for line in _text_lines(section, remaining[:count])))
            remaining = remaining[count:]
        return "\n\n".join(blocks)

    def sentences(self, section: Results) -> list[str]:
        return _verdict(section)


def bins_of(part: Results) -> list[Bin]:
    """The bins of a part of the curve (`table` or `fine`)."""
    return list(zip(part["edges"][:-1], part["edges"][1:], strict=True))


def losses_of(part: Results, row: str) -> dict[Bin, Estimate]:
    """Loss in nats by bin, without bins that no document reaches; empty for a row that was not measured."""
    if row not in part:
        return {}
    cells = zip(bins_of(part), part[row]["loss"], part[row]["standard_error"], strict=True)
    return {bin_: Estimate(loss, known(error)) for bin_, loss, error in cells if known(loss) is not None}


def _region(bin_: Bin, section: Results) -> str:
    """The lengths that a bin is beyond, in words."""
    for length, name in ((section["target_length"], "target"), (section["original_length"], "original")):
        if bin_[0] >= length:
            return f"beyond {name} ({length})"
    return AS_TRAINED


def _cell(loss: Estimate | None) -> Cell:
    if loss is None:
        return MISSING
    return Stacked(f"{loss.mean:.3f}", "" if loss.standard_error is None else f"±{loss.standard_error:.3f}")


def _text_lines(section: Results, bins: list[Bin]) -> list[str]:
    rows = {row: losses_of(section["table"], row) for row in rows_of(section["table"])}
    stub = ["", "tokens", *(text for row in rows for text in (row, ""))]
    lines = [text.ljust(max(map(len, stub))) for text in stub]
    for name, group in groupby(bins, lambda bin_: _region(bin_, section)):
        joint = "   " if name == AS_TRAINED else " │ "
        cells = _region_cells(name, [_loss_column(bin_, list(rows.values())) for bin_ in group])
        lines = [line + joint + cell for line, cell in zip(lines, cells, strict=True)]
    return lines


def _region_cells(name: str, columns: list[list[str]]) -> list[str]:
    """The lines of neighbouring columns under the name of their region."""
    lines = ["  ".join(cells) for cells in zip(*columns, strict=True)]
    width = max(len(name), len(lines[0]))
    return [name.ljust(width), *(line.ljust(width) for line in lines)]


def _loss_column(bin_: Bin, rows: list[dict[Bin, Estimate]]) -> list[str]:
    cells = [span(bin_)]
    for losses in rows:
        loss = losses.get(bin_)
        cells.append(f"{loss.mean:.3f}" if loss else "-")
        cells.append(f"±{loss.standard_error:.3f}" if loss and loss.standard_error is not None else "")
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _verdict(section: Results) -> list[str]:
    table, original_length, target_length = section["table"], section["original_length"], section["target_length"]
    tuned = "after" in table
    before, after = losses_of(table, "before"), losses_of(table, "after" if tuned else "untuned")
    near = [bin_ for bin_ in before if bin_ in after and bin_[1] <= original_length]
    reached = [bin_ for bin_ in after if bin_[0] >= original_length and bin_[1] <= target_length]
    if not near or not reached:
        return [] if target_length > original_length else ["The target length is the original length: nothing was extended."]
    end = "after" if tuned else "after it, without training"
    change = f"at {span(near[-1])} it went from {before[near[-1]].mean:.2f} to {after[near[-1]].mean:.2f}."
    far = [bin_ for bin_ in reached if bin_ in before]
    if not far:
        untuned = losses_of(table, "untuned").get(reached[-1]) if tuned else None
        measured = (
            f"Beyond the trained length ({span(reached[-1])}) the model had no positions before the extension and could not be read; "
            f"the loss is {after[reached[-1]]:.2f} nats {end}{f' ({untuned.mean:.2f} without training)' if untuned else ''}; {change}"
        )
        return [measured, _new_verdict(before, after, near[-1], reached[-1]), *_near_verdict(before, after, near)]
    measured = (
        f"Beyond the trained length ({span(far[-1])}) the loss was {before[far[-1]]:.2f} nats before the extension and "
        f"is {after[far[-1]]:.2f} {end}; {change}"
    )
    return [measured, _far_verdict(before, after, near[-1], far[-1]), *_near_verdict(before, after, near)]


def _far_verdict(before: Losses, after: Losses, near: Bin, far: Bin) -> str:
    """Whether the loss beyond the trained length became better, and whether it is as good as within it."""
    gain, excess = before[far] - after[far], after[far] - before[near]
    if (after[far] - before[far]).positive:
        return f"That is worse by {-gain.mean:.2f} nats: the extension made the loss worse beyond the trained length."
    if not gain.positive:
        return "That change cannot be distinguished from chance: the extension did not improve the loss there."
    if not (before[far] - before[near]).positive:
        return f"That is {gain.mean:.2f} nats better, but the loss did not break past the trained length before the extension."
    level = _level(excess, near)
    if excess.positive:
        return f"That is {gain.mean:.2f} nats better, but the break is not repaired: the loss is {level}."
    return f"That is {gain.mean:.2f} nats better, and the break is repaired: the loss is {level}."


def _new_verdict(before: Losses, after: Losses, near: Bin, far: Bin) -> str:
    """A length that could not be read before is compared with what the model could read."""
    excess = after[far] - before[near]
    conclusion = "" if excess.positive else ": the model reads the new length as well as the trained one"
    return f"That is {_level(excess, near)}{conclusion}."


def _level(excess: Estimate, near: Bin) -> str:
    """How the loss beyond the trained length compares with that within it."""
    if excess.positive:
        return f"{excess.mean:.2f} nats above {span(near)} before the extension"
    return f"{'not distinguishably above' if excess.mean > 0 else 'no higher than'} {span(near)} before the extension"


def _near_verdict(before: Losses, after: Losses, near: list[Bin]) -> list[str]:
    worse = [f"{span(bin_)} (by {(after[bin_] - before[bin_]).mean:.2f})" for bin_ in near if (after[bin_] - before[bin_]).positive]
    return [f"The loss within the trained length became worse at {' and '.join(worse)}."] if worse else []
