"""Checks of a scaling of rotary frequencies, as a pure function of the lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from elongate.check.checks import ORIGINAL, Check, ensure
from elongate.context.position.position import Position
from elongate.context.position.scaling import Rotary, Scaling

_ROTARY = Rotary(32, 1e4, ORIGINAL)


def position_checks(position: Position) -> Iterator[Check]:
    """The checks of a position that need no model; a table or slopes have none."""
    if isinstance(position, Scaling):
        yield "frequencies: one per pair of dimensions, finite, not negative", lambda: _check_frequencies(position)
        if position.is_identity_at_one:
            yield "a factor of 1 changes nothing", lambda: _check_factor_one(position)


def _check_frequencies(position: Scaling) -> str:
    for factor in (1.0, 1.5, 4.0, 16.0):
        target = round(factor * ORIGINAL)
        for length in (1, ORIGINAL, ORIGINAL + 1, target):
            found = np.asarray(position.read_frequencies(_ROTARY, factor, length))
            where = f"factor {factor:g}, a text of {length} tokens"
            ensure(found.shape == (16,), f"{where}: shape {found.shape} for 16 pairs")
            ensure(bool(np.isfinite(found).all()), f"{where}: not finite")
            ensure(bool((found >= 0).all()), f"{where}: negative")
        same = np.allclose(position.frequencies(_ROTARY, factor), position.read_frequencies(_ROTARY, factor, target), rtol=1e-12)
        ensure(same, f"factor {factor:g}: frequencies and read_frequencies differ at the target length")
    return ""


def _check_factor_one(position: Scaling) -> str:
    remedy = "set is_identity_at_one = False if that is intended"
    error = float(np.abs(position.frequencies(_ROTARY, 1.0) / _ROTARY.frequencies() - 1).max())
    ensure(error < 1e-9, f"frequencies change by a factor of up to {1 + error:.3g}; {remedy}")
    factor = position.attention_factor(_ROTARY, 1.0)
    ensure(factor == 1.0, f"the attention factor is {factor:g}; {remedy}")
    return ""
