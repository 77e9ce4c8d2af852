"""What a network does to its logits after the head, found by running it: a constant factor, a cap, or both."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elongate.models.head import Adjustment, head_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from elongate.models.language_model import LanguageModel

_CAP = re.compile(r"^(?!att).*(logit.*soft_?cap|soft_?cap.*logit)")  # a setting that names the cap of the logits
_LARGEST = 64.0  # logits of the probe: small ones hardly change when they are capped
_TOLERANCE = 1e-3  # of the largest logit


def find_adjustment(model: LanguageModel) -> Adjustment | None:
    """Return how the network turns the products of its head into logits; None: by something else than a factor and a cap.

    Raises `ValueError` if our attention does not support the network.
    """
    caps = _stated_caps(model.config)
    found = _probe(model, max(_LARGEST, *(2 * cap for cap in caps), 0))
    if found is None:
        return None
    products, logits = found
    for cap in (*caps, None):
        adjustment = _fitted(products, logits, cap)
        if adjustment is not None:
            return adjustment
    return None


def _probe(model: LanguageModel, largest: float) -> tuple[Tensor, Tensor] | None:
    """Return the products of the head for a few tokens and the network's logits, in float64; None if they have different shapes.

    The products are amplified to about `largest` where the network calls its head, which some compute themselves.
    """
    tokens, amplified = model.probe_text(8), False
    weight, bias = head_weights(model.network)
    with model.probed(), model.autocast():
        inputs = model.head_inputs(model.hidden(tokens))
        if inputs.shape[-1] != weight.shape[1]:
            return None
        products = F.linear(inputs.to(weight.dtype), weight, bias).double()
        peak = float(products.abs().max())
        # A power of two, so that it changes no rounding.
        gain = 2.0 ** math.floor(math.log2(largest / peak)) if 0 < peak < math.inf else 1.0

        def amplify(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            nonlocal amplified
            amplified = True
            return output * gain

        hook = model.network.get_output_embeddings().register_forward_hook(amplify)
        try:
            logits = model.network(input_ids=tokens, use_cache=False, **model.call_arguments(tokens)).logits.double()
        finally:
            hook.remove()
    if amplified:
        products = products * gain
    return (products, logits) if products.shape == logits.shape else None


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
