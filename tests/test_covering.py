"""Covering arrays contain all required combinations in fewer rows than the grid."""

from __future__ import annotations

from itertools import combinations, product

from tests.covering import all_pairs, all_values

FACTORS = ("abc", [1, 2, 3, 4], [True, False])


def test_default_rows_contain_every_pair_of_values() -> None:
    rows = all_pairs(*FACTORS)
    assert [tuple(row.values) for row in rows] == list(product(*FACTORS))
    default = [row.values for row in rows if not row.marks]
    assert len(default) < len(rows)
    for i, j in combinations(range(3), 2):
        assert {(row[i], row[j]) for row in default} == set(product(FACTORS[i], FACTORS[j]))


def test_default_rows_contain_every_value() -> None:
    default = [row.values for row in all_values(*FACTORS) if not row.marks]
    assert len(default) == 4
    for i in range(3):
        assert {row[i] for row in default} == set(FACTORS[i])


def test_rows_that_are_not_allowed_are_left_out() -> None:
    rows = all_pairs(*FACTORS, allowed=lambda letter, number, _: letter != "a" or number == 1)
    assert {row.values[1] for row in rows if row.values[0] == "a"} == {1}
    default = [row.values for row in rows if not row.marks]
    assert {row[:2] for row in default} == {row.values[:2] for row in rows}
