"""Figures by the number of tokens that are read: perplexity, the gain of context, pseudo-perplexity and LongPPL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from elongate.evaluation.presentation.drawings import Reach, ReachBars
from elongate.evaluation.presentation.numbers import leaves, numbers, rows_of
from elongate.evaluation.presentation.presentation import Presentation, Results
from elongate.evaluation.presentation.retrieval import effective_lengths
from elongate.evaluation.presentation.section import Column, Figure, Section, Table

Line = tuple[str, str, list[str]]  # row, figure, a cell for each length

_FORMS = {
    "same_tokens": "the last {} tokens of each text, predicted from contexts of each length",
    "strided": "windows of each length, {} tokens apart, every token scored once",
    "window_mean": "the mean of the means of windows of each length, {} tokens apart",
}


def table_by_length(lengths: Sequence[int], lines: Sequence[Line]) -> Table:
    """A table with one column per length and one row per line."""
    heads = [Column("tokens read", is_text=True), Column("", is_text=True)]
    columns = [*heads, *(Column(str(length), is_short=True) for length in lengths)]
    return Table(columns, [[row, name, *cells] for row, name, cells in lines])


def scalars_by_length(section: Results, figures: Sequence[str]) -> dict[str, Any]:
    """`after/loss/1024` and the like, for figures that are lists over the lengths."""
    by_length = {
        f"{row}/{figure}/{length}": value
        for row in rows_of(section)
        for figure in figures
        for length, value in zip(section["lengths"], section[row][figure], strict=True)
        if value is not None
    }
    return leaves(section) | by_length


class PerplexityPresentation(Presentation):
    """The table of perplexities."""

    word: ClassVar[str] = "perplexity"
    _figures: ClassVar[dict[str, tuple[str, int]]] = {  # to its name and digits
        "perplexity": ("perplexity", 2),
        "loss": ("nats", 3),
        "standard_error": ("± standard error", 3),
        "bits_per_byte": ("bits per byte", 3),
    }

    def caption(self, section: Results) -> str:
        form = _FORMS[section["form"]].format(section["stride"])
        return f"Form {section['form']}: {form}, over {section['n']} documents."

    def tables(self, section: Results) -> list[Table]:
        lines = [
            (row, name, numbers(section[row][key], digits)) for row in rows_of(section) for key, (name, digits) in self._figures.items()
        ]
        return [table_by_length(section["lengths"], lines)]

    def scalars(self, section: Results) -> dict[str, Any]:
        return scalars_by_length(section, ["perplexity", "loss", "bits_per_byte"])


class ContextGainPresentation(Presentation):
    """The bars and the table of the gain of context."""

    word: ClassVar[str] = "context_gain"
    title: ClassVar[str] = "Gain of context"

    def sections(self, results: Results) -> list[Section]:
        """The effective context, together with what `retrieval` measured if it did, then the gains."""
        section, retrieval = results[self.word], results.get("retrieval", {})
        reaches = {row: effective_context(section, row) | effective_lengths(retrieval, row) for row in rows_of(section)}
        bars = ReachBars({row: of for row, of in reaches.items() if of}, section["original_length"], section["target_length"])
        alt = "Horizontal bars of tokens with intervals, before and after the extension; the tables below have the figures."
        caption = (
            "Effective context: the shortest context beyond which no longer one improves the loss by "
            f"{section['negligible']} nats, with its 95% interval over {section['n']} documents."
            f"{' Retrieval: the length up to which the answers are found.' if retrieval else ''}"
        )
        reach = Section("How far back the text is used", figures=[Figure(bars, alt)], caption=caption)
        return [*([reach] if bars.rows else []), *super().sections(results)]

    def caption(self, section: Results) -> str:
        effective = []
        for row, reaches in ((row, effective_context(section, row)) for row in rows_of(section)):
            for reach in reaches.values():
                interval = f" (95%: {reach.low:g} to {reach.high:g})" if reach.low < reach.high else ""
                effective.append(f"{row} {reach.length:g}{interval}")
        return (
            f"The loss with a context of each length minus the loss with the whole context, for the last {section['scored']} tokens "
            f"of {section['n']} documents. The effective context is the shortest one beyond which no longer one improves the loss by "
            f"{section['negligible']} nats: {', '.join(effective) or 'none'}."
        )

    def tables(self, section: Results) -> list[Table]:
        lines: list[Line] = []
        for row in rows_of(section):
            halves = [None if ends is None else (ends[1] - ends[0]) / 2 for ends in section[row]["gain_interval"]]
            lines += [(row, "nats", numbers(section[row]["gain"], 3)), ("", "± 95%", numbers(halves, 3))]
        return [table_by_length(section["lengths"], lines)]

    def scalars(self, section: Results) -> dict[str, Any]:
        return scalars_by_length(section, ["loss", "gain"])


def effective_context(section: Results, row: str) -> dict[str, Reach]:
    """The effective context of a row; empty if the row was not measured or could not be read."""
    figures = section.get(row)
    if not figures or figures["effective_context"] is None:
        return {}
    length = figures["effective_context"]
    low, high = figures["effective_context_interval"] or (length, length)
    return {"effective_context": Reach(length, low, high)}


class PseudoPerplexityPresentation(Presentation):
    """The table of pseudo-perplexities."""

    word: ClassVar[str] = "pseudo_perplexity"
    title: ClassVar[str] = "Pseudo-perplexity"

    def caption(self, section: Results) -> str:
        return (
            f"{len(section['positions'][0])} tokens of each of {section['n']} documents, each hidden alone and predicted from all others. "
            "The edges are the first and the last of these tokens, the middle the two next to the middle of the text."
        )

    def tables(self, section: Results) -> list[Table]:
        lines: list[Line] = []
        for row in rows_of(section):
            figures = section[row]
            lines += [
                (row, "pseudo-perplexity", numbers(figures["pseudo_perplexity"], 2)),
                (row, "nats", numbers(figures["loss"], 3)),
                (row, "± standard error", numbers(figures["standard_error"], 3)),
                (row, "nats at the edges", numbers((edges and edges[0] for edges in figures["by_edge"]), 3)),
                (row, "nats in the middle", numbers((edges and edges[-1] for edges in figures["by_edge"]), 3)),
            ]
        return [table_by_length(section["lengths"], lines)]

    def scalars(self, section: Results) -> dict[str, Any]:
        return scalars_by_length(section, ["pseudo_perplexity", "loss"])


class LongPPLPresentation(Presentation):
    """The table of LongPPL."""

    word: ClassVar[str] = "longppl"
    title: ClassVar[str] = "LongPPL"
    _figures: ClassVar[dict[str, tuple[str, int]]] = {  # to its name and digits
        "longppl": ("LongPPL", 2),
        "loss": ("nats", 3),
        "standard_error": ("± standard error", 3),
        "key_tokens": ("key tokens", 0),
        "perplexity": ("perplexity of all tokens there", 2),
    }

    def caption(self, section: Results) -> str:
        chosen = (
            f"chosen by {section['evaluator']}, for all rows"
            if section["evaluator"]
            else "chosen by each row for itself, so that rows are measured on different tokens"
        )
        return (
            f"Perplexity of the key tokens of {section['n']} documents: tokens that the whole context makes likelier by "
            f"{section['min_gain']:g} nats than at most {section['short_length']} tokens do, and that it predicts with a loss below "
            f"{section['max_loss']:g}; {chosen}."
        )

    def tables(self, section: Results) -> list[Table]:
        lines = [
            (row, name, numbers([section[row][key]], digits)) for row in rows_of(section) for key, (name, digits) in self._figures.items()
        ]
        return [table_by_length([section["length"]], lines)]
