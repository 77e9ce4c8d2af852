"""The frontier against its definition, and a caption that does not report noise as a trade-off."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elongate.evaluation.presentation.estimate import Estimate
from elongate.report.canvas import pen
from elongate.report.pareto import frontier, pareto_figure, sentences


def points(*pairs: tuple[float, float], errors: float | None = None) -> dict[str, tuple[Estimate, Estimate]]:
    """Seconds and loss of strategies a, b, c, …"""
    return {"abcdefgh"[i]: (Estimate(cost, errors), Estimate(loss, errors)) for i, (cost, loss) in enumerate(pairs)}


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8))
def test_the_frontier_is_the_set_of_undominated_points(pairs: list[tuple[int, int]]) -> None:
    all_points = points(*pairs)
    at = {name: (cost.mean, loss.mean) for name, (cost, loss) in all_points.items()}
    found = frontier(all_points)
    undominated = {p for p in at.values() if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in at.values())}
    assert {at[name] for name in found} == undominated
    assert len(found) == len(undominated)
    assert all(at[left][0] < at[right][0] for left, right in pairwise(found))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (points((100, 2.0), (104, 1.5), (102, 1.7)), "are practically equal (from 100.0 to 104.0 seconds, 4.0% apart)"),
        (points((100, 2.0), (140, 1.5), errors=15.0), "cannot be distinguished over the seeds"),
        (points((100, 1.5), (140, 1.7), (120, 1.6)), "a is both the cheapest and the best"),
        (points((100, 2.0), (140, 1.5), (150, 1.6)), "better than a (100.0 s, 2.000 nats) or b (140.0 s, 1.500 nats)."),
    ],
)
def test_the_caption_follows_from_the_points(found: dict[str, tuple[Estimate, Estimate]], expected: str) -> None:
    assert expected in sentences(found)


def test_only_the_frontier_is_named_and_names_do_not_overlap() -> None:
    found = points((100, 1.502), (101, 1.501), (102, 1.500), (103, 1.7), errors=0.001)
    figure = pareto_figure(found, {name: pen(i) for i, name in enumerate(found)}, "loss")
    names = [text for text in figure.axes[0].texts if text.get_text()]
    assert [text.get_text() for text in names] == ["a", "b", "c"]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in names]
    assert not any(left.overlaps(right) for left, right in pairwise(boxes))
