"""The keys of config.json from which transformers 4 reads rotary positions.

transformers 5 writes `rope_parameters`, which version 4 does not know: it would read plain frequencies of the default
theta without a warning. Version 4 reads `rope_theta` and `rope_scaling`, with other names in some architectures. Version 5
still reads these, and its reading decides what is written: only what it reads as the same parameters from the old keys
alone, and from both forms together.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig

# The names that architectures have for theta, for the theta of layers with a window, and for the rotated share of a head.
_THETA = ("rope_theta", "rotary_emb_base", "global_rope_theta")
_LOCAL_THETA = ("rope_local_base_freq", "local_rope_theta")
_SHARE = ("partial_rotary_factor", "rotary_pct")
_WHOLE, _WINDOW = "full_attention", "sliding_attention"


def with_legacy_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a config.json with the keys of transformers 4 where both versions then read the same."""
    if isinstance(text := config.get("text_config"), dict):
        config = config | {"text_config": with_legacy_keys(text)}
    if not config.get("rope_parameters") or config.get("model_type") not in CONFIG_MAPPING:
        return config
    kind = CONFIG_MAPPING[config["model_type"]]
    wanted = _read(kind, config)
    without = {key: value for key, value in config.items() if key != "rope_parameters"}
    keys = _legacy_keys(kind, without, wanted or {})
    same = all(_read(kind, form | keys) == wanted for form in (without, config))
    return config | keys if same else config


def _legacy_keys(kind: type[PreTrainedConfig], without: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    whole = parameters.get(_WHOLE, parameters)
    values: list[tuple[tuple[str, ...], Any, float]] = [(_THETA, whole.get("rope_theta"), 12345.0)]
    values += [(_LOCAL_THETA, parameters.get(_WINDOW, {}).get("rope_theta"), 12345.0)]
    values += [(_SHARE, whole.get("partial_rotary_factor"), 0.5)]
    plain = _read(kind, without)
    # A name is used if another value changes what transformers 5 reads.
    keys = {
        name: value
        for names, value, other in values
        for name in names
        if value is not None and _read(kind, without | {name: other}) != plain
    }
    scaling = {key: value for key, value in whole.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if scaling.get("rope_type", "default") != "default":
        keys["rope_scaling"] = scaling
    if scaling.get("rope_type") == "longrope":
        keys["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return keys


def _read(kind: type[PreTrainedConfig], content: dict[str, Any]) -> dict[str, Any] | None:
    """Return the parameters that transformers 5 reads; None if it refuses them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the old keys, which are written on purpose
            config = kind.from_dict(copy.deepcopy(content))
    except (StrictDataclassError, ValueError, KeyError, AttributeError):
        return None
    return copy.deepcopy(config.rope_parameters)
