"""ROUGE (Lin 2004), by Google's rouge-score: F1, with the Porter stemmer; against the best of several references.

rouge-score drops whatever is not Latin, so Chinese is given to it in words of `words_of`: character by character.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from elongate.evaluation.text.words import words_of

PACKAGES = {"rouge_score": "rouge-score"}


class ByCharacter:
    def tokenize(self, text: str) -> list[str]:
        return words_of(text, "zh")


def rouge(figures: tuple[str, ...], prediction: str, references: tuple[str, ...], language: str) -> dict[str, float]:
    """`figures` as rouge-score names them: rouge1, rouge2, rougeL."""
    scores = _scorer(figures, language).score_multi(references, prediction)
    return {figure: float(scores[figure].fmeasure) for figure in figures}


def rouge_signature(languages: set[str]) -> str:
    how = [*(["stemmed words"] if languages - {"zh"} else []), *(["characters of Chinese"] if "zh" in languages else [])]
    return f"rouge-score {version('rouge-score')}, F1 over {' and '.join(how)}"


def _scorer(figures: tuple[str, ...], language: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    # The default one is named because rouge-score says so on standard error when it is not.
    return RougeScorer(list(figures), tokenizer=ByCharacter() if language == "zh" else DefaultTokenizer(use_stemmer=True))
