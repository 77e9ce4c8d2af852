"""The gate: a sentence in the verdict, and the reason why a command ends with exit code 1."""

from __future__ import annotations

from typing import ClassVar

from elongate.evaluation.presentation.presentation import Presentation, Results
from elongate.evaluation.presentation.section import Section


class GatePresentation(Presentation):
    """The sentence of the gate, and its failure."""

    word: ClassVar[str] = "gate"

    def sections(self, results: Results) -> list[Section]:
        return []

    def text(self, section: Results) -> str:
        return ""

    def sentences(self, section: Results) -> list[str]:
        return [_sentence(section)] if "passed" in section else []

    def failure(self, section: Results) -> str | None:
        return None if section["passed"] else _sentence(section).rstrip(".")


def _sentence(section: Results) -> str:
    """How much was lost, how certain that is, and how much is allowed."""
    parts = []
    if "loss" in section:
        loss = section["loss"]
        low, high = loss["interval"]
        parts.append(f"the loss rose by {loss['rise']:.3f} nats (95%: {low:.3f} to {high:.3f}; {loss['margin']:g} allowed)")
    if "answers" in section:
        of = section["answers"]
        parts.append(f"of {of['n']} answers {of['lost']} were lost and {of['won']} won (p = {of['p']:.2g}; {of['margin']:.0%} may fall)")
    outcome = "passed" if section["passed"] else "closed"
    return f"Gate {outcome}: within {section['original_length']} tokens, against {section['base']}, {' and '.join(parts)}."
