"""The retrieval tasks, modelled on RULER (Hsieh et al. 2024, arXiv:2404.06654, section 3) with our own sentences.

Every task has one answer, which a model either writes or does not. Where RULER lets a model list several values and
counts the hits, the answer here is the list in the order of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice, permutations

import numpy as np

from elongate.data.retrieval.problem import Draw, Problem

Task = Callable[[Draw], Problem]

_OTHERS = 4  # needles that the question is not about
_CHAIN = 3  # variables that pass a value on
_ASKED = 2  # keys or values in one question
_LEAST = 3  # words of a list that the answer does not name
_RARE = 400  # words that hide a common one
_COPIED, _SHOWN = 24, 16  # letters of a row, and how many of them the question repeats


def passkey(draw: Draw) -> Problem:
    """One number in unrelated text (Mohtashami & Jaggi 2023, arXiv:2305.16300)."""
    query = "\nThe pass key is"
    right, wrong = draw.answers(query, draw.stream())
    return Problem((f"{query} {right}.\n",), query, f" {right}", f" {wrong}")


def single(draw: Draw) -> Problem:
    """One number with a name."""
    (name,) = draw.words(1)
    right, wrong = draw.answers(_question(name), draw.stream())
    return Problem((_entry(name, right),), _question(name), f" {right}", f" {wrong}")


def multi_key(draw: Draw) -> Problem:
    """One number with a name, among numbers with other names."""
    names, stream = draw.words(1 + _OTHERS), draw.stream()
    numbers = [*draw.answers(_question(names[0]), stream), *islice(stream, _OTHERS - 1)]
    needles = tuple(_entry(*pair) for pair in zip(names, numbers, strict=True))
    return Problem(needles, _question(names[0]), f" {numbers[0]}", f" {numbers[1]}")


def multi_value(draw: Draw) -> Problem:
    """All numbers of one name, in the order of the text. They are next to each other."""
    (name,) = draw.words(1)
    query = f"\nThe numbers of {name} are"
    right, wrong = draw.answers(query, _lists(draw.stream()), _listed)
    needle = "".join(_entry(name, number) for number in right)
    return Problem((needle,), query, _listed(right), _listed(wrong))


def multi_query(draw: Draw) -> Problem:
    """The numbers of several names, in the order of the question."""
    names, stream = draw.words(_ASKED + _OTHERS), draw.stream()
    query = f"\nThe numbers of {' and '.join(names[:_ASKED])} are"
    right, wrong = draw.answers(query, _lists(stream), _listed)
    numbers = [*right, *wrong, *islice(stream, _OTHERS - _ASKED)]
    needles = tuple(_entry(*pair) for pair in zip(names, numbers, strict=True))
    return Problem(needles, query, _listed(right), _listed(wrong))


def variable_tracking(draw: Draw) -> Problem:
    """The value of a variable, through a chain of assignments. A second chain distracts."""
    names = draw.words(2 * _CHAIN)
    query = f"\nThe value of {names[_CHAIN - 1]} is"
    right, wrong = draw.answers(query, draw.stream())
    chains = [_chain(names[:_CHAIN], right), _chain(names[_CHAIN:], wrong)]
    # A chain is one needle, so its lines stay in order and its value can be followed.
    return Problem(("".join(chains[0]), "".join(chains[1])), query, f" {right}", f" {wrong}")


def key_value(draw: Draw) -> Problem:
    """The value of one key among as many pairs as fit (Liu et al. 2023, arXiv:2307.03172, section 3)."""
    stream = draw.stream()
    key = next(stream)
    query = f"\nThe value of {key} is"
    right, wrong = draw.answers(query, stream)
    needles = (_pair(key, right), _pair(next(stream), wrong))
    pairs = list(islice(zip(stream, stream, strict=False), draw.length // draw.count(_pair("12345", "12345"))))
    count = draw.fitting(needles, query, f" {right}", needles[0])
    return Problem(needles, query, f" {right}", f" {wrong}", tuple(_pair(*pair) for pair in pairs[:count]))


def common_words(draw: Draw) -> Problem:
    """The most frequent word of a list of at least `_LEAST` others, each at most half as frequent."""
    words, query = draw.words(1 + _RARE), "\nThe commonest word is"
    right, wrong = draw.answers(query, words)
    rare = [wrong, *(word for word in words if word not in (right, wrong))]
    fitting = draw.fitting((), query, f" {right}", f" {right}")
    repeated = max(4, fitting // 4)
    items = [rare[i % _RARE] for i in range(max(_LEAST, min(fitting - repeated, _RARE * (repeated // 2))))]
    return Problem((f" {right}",) * repeated, query, f" {right}", f" {wrong}", _shuffled(draw, items), num_required=_LEAST)


def frequent_words(draw: Draw) -> Problem:
    """The three most frequent words of a list, in order, among at least `_LEAST` others.

    Counts fall with the square of the rank.
    """
    words, query = draw.words(20), "\nThe three commonest words are"
    first, second, third, *others = words
    # The orders of three words differ in tokens only where words meet, so two of the six have equally many.
    orders = chain([(first, second, third), (second, first, third)], permutations((first, second, third)))
    right, wrong = (" " + " ".join(order) for order in draw.answers(query, orders, lambda order: " " + " ".join(order)))
    words = [*right.split(), *others]
    longest = max((f" {word}" for word in words), key=draw.count)
    fitting = draw.fitting((), query, right, longest)
    shares = 1 / np.arange(1, len(words) + 1) ** 2
    # In a short list too the first three are ahead of others: they get 4, 3 and 2 words, and the rest is shared by rank.
    least = np.array([4, 3, 2, *[1] * _LEAST, *[0] * (len(words) - 3 - _LEAST)])
    counts = least + np.floor(shares / shares.sum() * max(0, fitting - least.sum())).astype(int)
    counts[3:] = np.minimum(counts[3:], counts[2] - 1)
    needles, items = (np.repeat(words[part], counts[part]).tolist() for part in (slice(0, 3), slice(3, None)))
    return Problem(_shuffled(draw, needles), query, right, wrong, _shuffled(draw, items), num_required=_LEAST)


def copy(draw: Draw) -> Problem:
    """The end of a row of random letters whose beginning the question repeats. It needs no language."""
    shown = _letters(draw, _SHOWN)
    right, wrong = draw.answers(f"\n{shown}", iter(lambda: _letters(draw, _COPIED - _SHOWN), ""), str)
    return Problem((f"\n{shown}{right}\n",), f"\n{shown}", right, wrong)


_TASKS: tuple[Task, ...] = (
    passkey,
    single,
    multi_key,
    multi_value,
    multi_query,
    variable_tracking,
    key_value,
    common_words,
    frequent_words,
    copy,
)
TASKS = {task.__name__: task for task in _TASKS}


def _entry(name: str, number: str) -> str:
    return f"\nThe number of {name} is {number}.\n"


def _question(name: str) -> str:
    return f"\nThe number of {name} is"


def _pair(key: str, value: str) -> str:
    return f"\nThe value of {key} is {value}."


def _chain(names: list[str], value: str) -> list[str]:
    return [f"\nlet {name} be {source}\n" for name, source in zip(names, [value, *names], strict=False)]


def _lists(numbers: Iterator[str]) -> Iterator[tuple[str, ...]]:
    return zip(*[numbers] * _ASKED, strict=False)


def _listed(numbers: tuple[str, ...]) -> str:
    return f" {', '.join(numbers)}"


def _letters(draw: Draw, count: int) -> str:
    return "".join(draw.random.choice(list("abcdefghijklmnopqrstuvwxyz"), size=count).tolist())


def _shuffled(draw: Draw, words: list[str]) -> tuple[str, ...]:
    return tuple(f" {words[i]}" for i in draw.random.permutation(len(words)).tolist())
