"""What an evaluation shows of its section of results.json: on the page, in the terminal and in the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from elongate.evaluation.presentation.numbers import estimate_text, figure_of, leaves, number, rows_of, title_of
from elongate.evaluation.presentation.section import Column, Csv, Figure, Section, Table
from elongate.evaluation.presentation.terminal import section_text

Results = Mapping[str, Any]


class Presentation:
    """The defaults show every number of every row. An evaluation overrides what it shows better.

    `section` is the evaluation's part of results.json: its header and a row for each model.
    """

    word: ClassVar[str]
    title: ClassVar[str] = ""  # heading on the page; empty: from the word

    @property
    def heading(self) -> str:
        return self.title or title_of(self.word)

    def sections(self, results: Results) -> list[Section]:
        """The parts of the page. `results` is all of results.json, for figures that combine evaluations."""
        section = results[self.word]
        figures, tables = self.figures(section), self.tables(section)
        shown = Section(self.heading, figures=figures, caption=self.caption(section), tables=tables)
        return [shown] if figures or tables else []

    def tables(self, section: Results) -> list[Table]:
        """A table of the rows and their figures; one for each group of rows if the section has several."""
        groups = [section] if rows_of(section) else [part for part in section.values() if isinstance(part, Mapping)]
        return [_table_of_rows(group) for group in groups if rows_of(group)]

    def figures(self, section: Results) -> list[Figure]:
        return []

    def caption(self, section: Results) -> str:
        """What the tables contain, in a sentence or two."""
        return ""

    def text(self, section: Results) -> str:
        """What the terminal shows; empty for nothing."""
        return section_text(self.heading, self.caption(section), self.tables(section))

    def csv(self, section: Results) -> Csv | None:
        """The file `<word>.csv`; None: there is none."""
        return None

    def scalars(self, section: Results) -> dict[str, Any]:
        """Values by path, for trackers."""
        return leaves(section)

    def sentences(self, section: Results) -> list[str]:
        """What the figures mean, for the verdict of the run."""
        return []

    def failure(self, section: Results) -> str | None:
        """Why the command ends with exit code 1; None: it does not."""
        return None


def _table_of_rows(group: Results) -> Table:
    """One line for each row; a figure with a standard error is shown with it."""
    rows = rows_of(group)
    keys = dict.fromkeys(key for row in rows for key, value in group[row].items() if _is_number(value))
    shown = [key for key in keys if not key.endswith("_standard_error")]
    columns = [Column("row", is_text=True), *(Column(key.replace("_", " ")) for key in shown)]
    return Table(columns, [[row, *(_cell(group[row], key) for key in shown)] for row in rows])


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(row: Results, key: str) -> str:
    value = row.get(key)
    return number(value, 0) if isinstance(value, int) else estimate_text(figure_of(row, key), 3)
