"""Rotary parameters that transformers derives from `max_position_embeddings`, which an extension changes.

Phi-3 as published states no factor for `longrope`, and a `factor` of null is legal for `yarn`: transformers then divides
`max_position_embeddings` by the original length, and derives the attention factor from the quotient. A reader of a model
with a longer `max_position_embeddings` would derive other values than the model was trained with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def write_derived(config: PreTrainedConfig) -> None:
    """Write derived factors into `config.rope_parameters`. Call before anything changes the lengths of the configuration."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in parameters:
        _write(config, parameters, {})
        return
    for layer, nested in parameters.items():
        if isinstance(nested, dict):
            _write(config, nested, {"layer_type": layer})


def _write(config: PreTrainedConfig, parameters: dict[str, Any], layers: dict[str, str]) -> None:
    kind, factor = parameters.get("rope_type"), parameters.get("factor")
    # transformers 4 derives the attention factor of longrope from the lengths even if there is a factor.
    if not (kind == "longrope" or (kind == "yarn" and factor is None)):
        return
    if factor is None:
        parameters["factor"] = config.max_position_embeddings / parameters["original_max_position_embeddings"]
    compute: Callable[..., Any] = ROPE_INIT_FUNCTIONS[kind]
    parameters["attention_factor"] = float(compute(config, None, **layers)[1])
