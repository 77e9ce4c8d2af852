"""Splits answers into words for exact match and F1.

The normalisation is SQuAD's published one (Rajpurkar et al. 2016, arXiv:1606.05250, evaluate-v1.1.py), and for Chinese that of MLQA
(Lewis et al. 2019, arXiv:1910.07475, mlqa_evaluation_v1.py): each Han character is a word, and so is each word or number in another
script between them. Chinese has no articles.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

HAN = re.compile(r"[\u4e00-\u9fa5]")  # as published


def words_of(text: str, language: str) -> list[str]:
    """The words of a text in lower case, without punctuation and articles."""
    if language != "zh":
        bare = "".join(character for character in text.lower() if character not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", bare).split()
    return HAN.sub(r" \g<0> ", "".join(character for character in text.lower() if not _is_punctuation(character))).split()


def exact_match(prediction: str, reference: str, language: str) -> float:
    """1 if both texts have the same words, else 0."""
    return float(words_of(prediction, language) == words_of(reference, language))


def f1(prediction: str, reference: str, language: str) -> float:
    """F1 of the words in common, from 0 to 1. If one of the texts has no words: 1 if neither has any, else 0, as in SQuAD 2."""
    said, wanted = words_of(prediction, language), words_of(reference, language)
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    # The share of the words of both texts equals the harmonic mean of precision and recall.
    return 2 * common / (len(said) + len(wanted))


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
