"""The warning of a rotary theta that is too small for the target length."""

from __future__ import annotations

import pytest
from tests.models.small import gpt, strategy

from elongate.context.attention.window import Window
from elongate.context.position.abf import AdjustedBase
from elongate.models.theta_bound import known_bound, theta_warning


@pytest.mark.parametrize(("length", "bound"), [(4095, None), (4096, (4096, 2.7e4)), (65535, (32768, 6.4e5)), (2**21, (2**20, 5.1e8))])
def test_the_bound_is_that_of_the_longest_known_length_that_is_not_longer(length: int, bound: tuple[int, float] | None) -> None:
    assert known_bound(length) == bound


def test_a_theta_below_the_bound_is_named_and_the_remedy_silences_it() -> None:
    model = gpt(original_length=4096)  # theta 10000
    line = theta_warning(model, strategy("none", target_length=65536), 4096)
    assert line == (
        "theta=10000 is below 640000, the least known to work at 32768 tokens (arXiv:2405.14591): "
        "the model may not retrieve from far away; context=abf context.position.theta=640000 or more sets it"
    )
    ntk = theta_warning(model, strategy("ntk", target_length=131072), 4096)  # 10000 · 32^(d / (d - 2)), with d = 8
    assert ntk is not None
    assert ntk.startswith("theta=1.01594e+06 is below 7.8e+06, ")
    assert theta_warning(model, strategy("abf", target_length=32768), 4096) is not None  # 500000
    assert theta_warning(model, strategy("abf", position=AdjustedBase(theta=640_000.0), target_length=32768), 4096) is None


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("none", {"target_length": 4096}),  # extends nothing
        ("yarn", {"target_length": 32768}),  # interpolates
        ("none", {"target_length": 32768, "attention": Window()}),  # no distance exceeds the window
        ("none", {"target_length": 4096 - 1}),  # no bound is known
    ],
)
def test_where_the_bound_does_not_apply_nothing_is_said(word: str, fields: dict[str, object]) -> None:
    original = 4096 if fields["target_length"] != 4095 else 64
    assert theta_warning(gpt(original_length=original), strategy(word, **fields), original) is None
