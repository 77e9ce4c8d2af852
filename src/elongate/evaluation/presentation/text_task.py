"""Tasks on text: a line for each row with the task's figures."""

from __future__ import annotations

from typing import ClassVar

from elongate.evaluation.presentation.numbers import estimate_text, figure_of, plain, rows_of, title_of
from elongate.evaluation.presentation.presentation import Presentation, Results
from elongate.evaluation.presentation.section import Column, Section, Table
from elongate.evaluation.presentation.terminal import aligned


class TextTaskPresentation(Presentation):
    """The table of a task on text."""

    title: ClassVar[str] = "Text tasks"

    def sections(self, results: Results) -> list[Section]:
        section = results[self.word]
        name = self.word.replace("_", " ")
        return [Section(self.title, subtitle=name, caption=self.caption(section), tables=self.tables(section))]

    def caption(self, section: Results) -> str:
        signatures = "".join(f" {figure.replace('_', ' ')}: `{signature}`." for figure, signature in section["signatures"].items())
        return (
            f"{section['n']} of {section['records']} samples of {plain(section['path'])}, prompt and answer within {section['length']} "
            f"tokens; the context of {section['truncated']} was cut in the middle. Each figure with its standard error.{signatures}"
        )

    def tables(self, section: Results) -> list[Table]:
        figures = section["figures"]
        columns = [Column("row", is_text=True), Column("samples"), *(Column(figure.replace("_", " ")) for figure in figures)]
        lines = [
            [row, str(section[row]["n"]), *(estimate_text(figure_of(section[row], figure), 3) for figure in figures)]
            for row in rows_of(section)
        ]
        return [Table(columns, lines)]

    def text(self, section: Results) -> str:
        lines = [["", *(figure.replace("_", " ") for figure in section["figures"])]]
        for row in rows_of(section):
            cells = [figure_of(section[row], figure) for figure in section["figures"]]
            lines.append([row, *("-" if cell is None else f"{cell:.3f}" for cell in cells)])
        cut = f", {section['truncated']} of them cut to {section['length']} tokens" if section["truncated"] else ""
        return "\n".join([f"{title_of(self.word)}, {section['n']} samples{cut}", "", *aligned(lines)])
