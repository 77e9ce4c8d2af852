"""STRING (An et al. 2024, arXiv:2410.18745): well-trained distances replace the longest ones, without training.

With S = `shift_length` and W = `window_length`, keys less than S away have true positions. A query at p has position
p - S + W for all farther keys, so a distance d of S or more becomes d - S + W: distances from W on are used twice, the
longest S - W are used no more, and the W nearest keep distances that no far key has. Models see long distances
rarely in training, and read badly at them. The method therefore also changes texts within the original length, from
S + 1 tokens on, and reaches L + S - W tokens, where L is the original length: below twice the original length.

The authors' code has S = 0.33 L and W = 128, at L = 131072. Departs from it in the default of `window_length`, which is
at most an eighth of `shift_length`, so that it suits short models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention, Pattern, Region
from elongate.context.attention.kernel import blocks
from elongate.context.attention.near_and_far import Positions
from elongate.context.attention.window import check_positive
from elongate.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class String(Attention):
    """Settings of STRING."""

    shift_length: int | None = None  # smallest distance that is shifted, at least 2; None: a third of the original length
    window_length: int | None = None  # tokens, at least 1, below shift_length; None: an eighth of it, at most 128

    word: ClassVar[str] = "string"
    rotates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        fits = self.shift_length is None or self.shift_length > 1
        require(fits, "shift_length", self.shift_length, "must be at least 2", "use {key}=null")
        check_positive(self.window_length)

    def check(self, length: int, original_length: int) -> None:
        sized = self.for_length(length, original_length)
        shift, window = sized.shift_length, sized.window_length
        rule, remedy = f"must be below shift_length={shift}, or no distance changes", f"use {{key}}={shift - 1} or less"
        require(window < shift, "window_length", window, rule, remedy)
        rule = f"must be at most the original length of {original_length}: longer distances were not trained"
        require(shift <= original_length, "shift_length", shift, rule, f"use {{key}}={original_length} or less")
        rule = f"must be below the length of {length}, or no distance is shifted"
        require(shift < length, "shift_length", shift, rule, f"use {{key}}={length - 1} or less")
        self._check_reach(length, original_length, shift, window)

    def _check_reach(self, length: int, original_length: int, shift: int, window: int) -> None:
        """Raises `ConfigError` if some distance is longer than those that the model was trained on."""
        if original_length + shift - window >= length:
            return
        rule = f"reaches {original_length + shift - window} tokens with window_length={window}, not {length}"
        enough = [s for s in range(shift, original_length + 1) if original_length + s - self._window(s) >= length]
        if enough:
            raise ConfigError("shift_length", shift, rule, f"use {{key}}={enough[0]} or more")
        largest = 2 * original_length - self._window(original_length)
        raise ConfigError("shift_length", shift, rule, f"use context.target_length={largest} or less, or context/attention=self_extend")

    def for_length(self, length: int, original_length: int) -> StringPattern:
        shift = max(2, original_length // 3) if self.shift_length is None else self.shift_length
        return StringPattern(shift, self._window(shift))

    def _window(self, shift_length: int) -> int:
        return max(1, min(128, shift_length // 8)) if self.window_length is None else self.window_length


@dataclass(frozen=True)
class StringPattern(Pattern):
    """STRING with both sizes known."""

    shift_length: int
    window_length: int

    word: ClassVar[str] = String.word
    rotates: ClassVar[bool] = True

    def regions(self, length: int, num_heads: int, causal: bool) -> tuple[Region, ...]:
        assert causal  # needs
        near = tuple(blocks.window(length, self.shift_length, causal))
        far = tuple(blocks.beyond(length, self.shift_length))
        return (Region(near), Region(far, query_positions=self.far_query))

    def far_query(self, positions: Positions) -> Positions:
        """Position of each query when it is compared with far keys; negative for queries that have none."""
        return positions - self.shift_length + self.window_length
