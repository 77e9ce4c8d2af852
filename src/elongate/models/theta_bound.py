"""The smallest rotary theta with which a length has been found usable (Men et al. 2024, arXiv:2405.14591).

With a smaller theta the loss can be low at that length, but the model does not find what is far away. The bound was
derived for plain frequencies of heads of 128 dimensions: it does not apply to interpolated frequencies (PI, YaRN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elongate.context.position.scaling import Scaling
from elongate.context.strategy import Strategy

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

_BOUNDS = {4096: 2.7e4, 32768: 6.4e5, 131072: 7.8e6, 1048576: 5.1e8}  # by length in tokens


def known_bound(length: int) -> tuple[int, float] | None:
    """Return the largest length in the table that is at most `length`, and its bound; None: there is none."""
    return max(((known, theta) for known, theta in _BOUNDS.items() if known <= length), default=None)


def theta_warning(model: LanguageModel, strategy: Strategy, original_length: int) -> str | None:
    """Return one line if the strategy extends the model with a theta below the known bound; None: it does not, or none is known."""
    position, rotary, length = strategy.position, model.positions.rotary, strategy.target_length
    bounds = known_bound(length)
    if bounds is None or length <= original_length or not strategy.measured_attention.is_full:
        return None
    if not rotary or not isinstance(position, Scaling):
        return None
    restarts = position.changes_model and rotary.is_scaled and strategy.from_ == "original"
    if rotary.trained.get("rope_type") != "default" and not restarts:
        return None  # the frequencies are not those of a theta
    known, bound = bounds
    parameters = position.rope_parameters(*rotary.starting_point(original_length, length))
    if parameters["rope_type"] != "default" or parameters["rope_theta"] >= bound:
        return None
    found = f"theta={parameters['rope_theta']:g} is below {bound:g}, the least known to work at {known} tokens (arXiv:2405.14591)"
    return f"{found}: the model may not retrieve from far away; context=abf context.position.theta={bound:g} or more sets it"
