"""How much of an answer a text names, as in RULER (Hsieh et al. 2024, arXiv:2404.06654; NVIDIA/RULER).

Case and the rest of the text make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def answer_values(answer: str) -> list[str]:
    """The numbers or words that an answer lists."""
    return re.findall(r"\w+", answer)


def share_named(text: str, values: Sequence[str]) -> float:
    """The share of the values that the text names, if all of them are asked for (`string_match_all`)."""
    return sum(value.lower() in text.lower() for value in values) / len(values)


def any_named(text: str, aliases: Sequence[str]) -> float:
    """1 if the text names any of several names of the same answer (`string_match_part`), else 0."""
    return float(any(alias.lower() in text.lower() for alias in aliases))
