"""What is asked of a long text, in the manner of RULER (Hsieh et al. 2024, arXiv:2404.06654, section 3); the sentences are our own.

Every task asks for one answer, which a model either writes or does not. Where RULER lets a model list several values and counts those that
it hits, the answer here is the list in the order of the text.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from elongate.data.retrieval.problem import Draw, Problem

Task = Callable[[Draw], Problem]

_OTHERS = 4  # needles beside the one that is asked for
_CHAIN = 3  # variables that hand a value on
_ASKED = 2  # keys or values that are asked for at once
_RARE = 400  # words that hide a common one
_COPIED, _SHOWN = 24, 16  # letters of what is to be copied, and of those the ones that are shown again


def passkey(draw: Draw) -> Problem:
    """One number in a text that has none to do with it (Mohtashami & Jaggi 2023, arXiv:2305.16300)."""
    right, wrong = draw.numbers(2)
    return Problem((f"\nThe pass key is {right}.\n",), "\nThe pass key is", f" {right}", f" {wrong}")


def single(draw: Draw) -> Problem:
    """A number under a name."""
    (name,), (right, wrong) = draw.words(1), draw.numbers(2)
    return Problem((_entry(name, right),), _question(name), f" {right}", f" {wrong}")


def multi_key(draw: Draw) -> Problem:
    """One among numbers under other names."""
    names, numbers = draw.words(1 + _OTHERS), draw.numbers(1 + _OTHERS)
    needles = tuple(_entry(*pair) for pair in zip(names, numbers, strict=True))
    return Problem(needles, _question(names[0]), f" {numbers[0]}", f" {numbers[1]}")


def multi_value(draw: Draw) -> Problem:
    """All numbers of one name, in the order of the text: they stand together."""
    (name,), numbers = draw.words(1), draw.numbers(2 * _ASKED)
    right, wrong = numbers[:_ASKED], numbers[_ASKED:]
    needle = "".join(_entry(name, number) for number in right)
    return Problem((needle,), f"\nThe numbers of {name} are", f" {', '.join(right)}", f" {', '.join(wrong)}")


def multi_query(draw: Draw) -> Problem:
    """The numbers of several names, in the order of the question."""
    names, numbers = draw.words(_ASKED + _OTHERS), draw.numbers(_ASKED + _OTHERS)
    needles = tuple(_entry(*pair) for pair in zip(names, numbers, strict=True))
    query = f"\nThe numbers of {' and '.join(names[:_ASKED])} are"
    return Problem(needles, query, f" {', '.join(numbers[:_ASKED])}", f" {', '.join(numbers[_ASKED : 2 * _ASKED])}")


def variable_tracking(draw: Draw) -> Problem:
    """What a variable is, which got it from another, which got it from a third; beside another such chain."""
    names, numbers = draw.words(2 * _CHAIN), draw.numbers(2)
    chains = [_chain(names[:_CHAIN], numbers[0]), _chain(names[_CHAIN:], numbers[1])]
    # The lines of a chain stand in order wherever the chain lies, or its value could not be followed.
    return Problem(("".join(chains[0]), "".join(chains[1])), f"\nThe value of {names[_CHAIN - 1]} is", f" {numbers[0]}", f" {numbers[1]}")


def key_value(draw: Draw) -> Problem:
    """One of as many pairs as fit (Liu et al. 2023, arXiv:2307.03172, section 3)."""
    query = "\nThe value of {} is"
    size = draw.count(_pair("12345", "12345"))
    found = draw.numbers(4 + 2 * max(0, draw.room // size))
    key, right, wrong, other = found[:4]
    needles = (_pair(key, right), _pair(other, wrong))
    count = draw.fitting(needles, query.format(key) + f" {right}", _pair(key, right))
    items = tuple(_pair(*found[4 + 2 * i : 6 + 2 * i]) for i in range(count))
    return Problem(needles, query.format(key), f" {right}", f" {wrong}", items)


def common_words(draw: Draw) -> Problem:
    """The one word of a list that comes back again and again; any other comes at most half as often."""
    words, query = draw.words(1 + _RARE), "\nThe commonest word is"
    fitting = draw.fitting((), f"{query} {words[0]}", f" {words[0]}")
    repeated = max(4, fitting // 4)
    items = [words[1 + i % _RARE] for i in range(min(fitting - repeated, _RARE * (repeated // 2)))]
    return Problem((f" {words[0]}",) * repeated, query, f" {words[0]}", f" {words[1]}", _shuffled(draw, items))


def frequent_words(draw: Draw) -> Problem:
    """The three commonest words of a list whose counts fall with the square of their rank, the commonest first."""
    words, query = draw.words(20), "\nThe three commonest words are"
    fitting = draw.fitting((), f"{query} {' '.join(words[:3])}", f" {words[0]}")
    shares = 1 / np.arange(1, len(words) + 1) ** 2
    # A short list has an order too: what is left beside a few of the first three falls with the rank.
    counts = np.array([4, 3, 2, *[0] * 17]) + np.floor(shares / shares.sum() * max(0, fitting - 9)).astype(int)
    counts[3:] = np.minimum(counts[3:], counts[2] - 1)
    needles, items = (np.repeat(words[part], counts[part]).tolist() for part in (slice(0, 3), slice(3, None)))
    answers = " ".join(words[:3]), " ".join([words[1], words[0], words[2]])
    return Problem(_shuffled(draw, needles), query, f" {answers[0]}", f" {answers[1]}", _shuffled(draw, items))


def copy(draw: Draw) -> Problem:
    """The end of a row of random letters whose beginning is shown again: no language is needed, and the depth is how far it lies back."""
    letters = "".join(draw.random.choice(list("abcdefghijklmnopqrstuvwxyz"), size=2 * _COPIED - _SHOWN).tolist())
    row, wrong = letters[:_COPIED], letters[_COPIED:]
    return Problem((f"\n{row}\n",), f"\n{row[:_SHOWN]}", row[_SHOWN:], wrong)


TASKS: dict[str, Task] = {
    task.__name__: task
    for task in (passkey, single, multi_key, multi_value, multi_query, variable_tracking, key_value, common_words, frequent_words, copy)
}


def _entry(name: str, number: str) -> str:
    return f"\nThe number of {name} is {number}.\n"


def _question(name: str) -> str:
    return f"\nThe number of {name} is"


def _pair(key: str, value: str) -> str:
    return f"\nThe value of {key} is {value}."


def _chain(names: list[str], value: str) -> list[str]:
    return [f"\nlet {name} be {source}\n" for name, source in zip(names, [value, *names], strict=False)]


def _shuffled(draw: Draw, words: list[str]) -> tuple[str, ...]:
    return tuple(f" {words[i]}" for i in draw.random.permutation(len(words)).tolist())
