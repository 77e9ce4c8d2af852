"""ROUGE (Lin 2004) by Google's rouge-score: F1 with the Porter stemmer, against the best of several references.

The tokenizer of rouge-score drops all characters that are not Latin, so Chinese is split by `words_of` into characters instead.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from elongate.evaluation.text.words import words_of

PACKAGES = {"rouge_score": "rouge-score"}


class ByCharacter:
    """A tokenizer for rouge-score that splits Chinese into characters."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text, "zh")


def rouge(figures: tuple[str, ...], prediction: str, references: tuple[str, ...], language: str) -> dict[str, float]:
    """F1 by figure, from 0 to 1. `figures` are named as in rouge-score: rouge1, rouge2, rougeL."""
    scores = _scorer(figures, language).score_multi(references, prediction)
    return {figure: float(scores[figure].fmeasure) for figure in figures}


def rouge_signature(languages: set[str]) -> str:
    """The version of rouge-score and how texts are split into words."""
    how = [*(["stemmed words"] if languages - {"zh"} else []), *(["characters of Chinese"] if "zh" in languages else [])]
    return f"rouge-score {version('rouge-score')}, F1 over {' and '.join(how)}"


def _scorer(figures: tuple[str, ...], language: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    # Without an explicit tokenizer, rouge-score logs a line to standard error.
    return RougeScorer(list(figures), tokenizer=ByCharacter() if language == "zh" else DefaultTokenizer(use_stemmer=True))
