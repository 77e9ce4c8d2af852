"""Lengths and depths of texts: the default ones, and checks of those that a user gives."""

from __future__ import annotations

from elongate.errors import require

BATCH_TOKENS = 8192  # read together in one forward pass


def usual_lengths(original_length: int, target_length: int, two_sided: bool, beyond: int = 2) -> list[int]:
    """Doublings of the original length to `beyond` times the target, or to the target if both sides are read."""
    return doublings(original_length, target_length if two_sided else beyond * target_length)


def doublings(first: int, last: int) -> list[int]:
    """The first length, its doublings below the last, and the last."""
    lengths = [first]
    while lengths[-1] < last:
        lengths.append(min(2 * lengths[-1], last))
    return lengths


def check_depths(depths: list[float]) -> None:
    """Raise `ConfigError` for depths outside 0 to 1, or given twice, whose samples would count twice."""
    valid = bool(depths) and all(0 <= depth <= 1 for depth in depths) and len(set(depths)) == len(depths)
    require(valid, "depths", depths, "must be one or more different depths between 0 and 1", "use {key}=[0,0.5,1]")
