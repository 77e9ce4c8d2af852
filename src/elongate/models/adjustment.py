"""What a network does to its logits after the head, found by running it: a constant factor, a cap, or both."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from elongate.models.head import Adjustment, head_weights
from elongate.models.parts import language_config

_CAP = re.compile(r"^(?!att).*(logit.*soft_?cap|soft_?cap.*logit)")  # a setting that names the cap of the logits
_LARGEST = 64.0  # logits of the probe: small ones hardly change when they are capped
_TOLERANCE = 1e-3  # of the largest logit


def find_adjustment(network: PreTrainedModel, inputs: Float[Tensor, "batch length width"], run: Callable[[], Tensor]) -> Adjustment | None:
    """Return how the network turns the products of its head into logits; None: by something else than a factor and a cap.

    `inputs` are those of the head's matrix for a few tokens. `run` returns the network's logits of these tokens.
    """
    caps = _stated_caps(language_config(network))
    weight, bias = head_weights(network)
    if inputs.shape[-1] != weight.shape[1]:
        return None
    products = F.linear(inputs.to(weight.dtype), weight, bias).double()
    products, logits = _amplified(network, products, run, max(_LARGEST, *(2 * cap for cap in caps), 0))
    if products.shape != logits.shape:
        return None
    fitted = (_fitted(products, logits, cap) for cap in (*caps, None))
    return next((adjustment for adjustment in fitted if adjustment is not None), None)


def _amplified(network: PreTrainedModel, products: Tensor, run: Callable[[], Tensor], largest: float) -> tuple[Tensor, Tensor]:
    """Return the products, amplified to about `largest`, and the network's logits of them, in float64.

    They are not amplified where the network does not call its head but multiplies by its matrix.
    """
    peak, gain = float(products.abs().max()), 1.0
    if 0 < peak < math.inf:
        # A power of two, so that it changes no rounding.
        gain = 2.0 ** math.floor(math.log2(largest / peak))
    calls = 0

    def amplify(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return output * gain

    hook = network.get_output_embeddings().register_forward_hook(amplify)
    try:
        logits = run().double()
    finally:
        hook.remove()
    return products * gain if calls else products, logits


def _fitted(products: Tensor, logits: Tensor, cap: float | None) -> Adjustment | None:
    """Return the adjustment with this cap whose logits are those of the network, if there is one."""
    if cap is None:
        ours, theirs = products, logits
    else:
        flat = logits.abs() < cap / 2  # where rounding is not magnified
        ours, theirs = products[flat], cap * torch.atanh(logits[flat] / cap)
    ratio = float((ours * theirs).sum() / ours.square().sum())
    if not math.isfinite(ratio):
        return None
    # The nearest simple fraction: constants of real models are exact then, and others as exact as float32.
    adjustment = Adjustment(float(Fraction(ratio).limit_denominator(1 << 16)), cap)
    error = (adjustment.apply_(products.clone()) - logits).abs().max()
    return adjustment if error <= _TOLERANCE * logits.abs().max() else None


def _stated_caps(config: PreTrainedConfig) -> list[float]:
    """Return the caps of the logits that the configuration states. The probe decides whether one is applied."""
    settings = config.to_dict()
    return [float(value) for key, value in settings.items() if _CAP.search(key) and isinstance(value, int | float) and value > 0]
