"""The language part of a network: its decoder and configuration, also inside a multimodal network."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel

WHOLE = "full_attention"  # transformers' name for layers that see the whole sequence


def language_body(network: PreTrainedModel) -> PreTrainedModel:
    """Return what maps tokens to hidden states, without the head and without the towers of other modalities."""
    body = _base(network)
    while (inner := getattr(body, "language_model", None)) is not None:
        body = _base(inner)
    return body


def language_part(network: PreTrainedModel) -> PreTrainedModel:
    """Return the network without the towers of other modalities; the network itself if it has none."""
    body = language_body(network)
    return network if body is _base(network) else body


def language_config(network: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of the language part."""
    return network.config.get_text_config(decoder=True)


def layer_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the layers that see the whole sequence: sizes may differ by layer, as in Gemma 4."""
    if not config.is_heterogeneous:
        return config
    types = getattr(config, "layer_types", None) or ()
    return config.per_layer_config[WHOLE if WHOLE in types else 0]


def head_dim(config: PreTrainedConfig) -> int:
    """Return the dimensions of an attention head of the layers that see the whole sequence."""
    config = layer_config(config)
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _base(network: PreTrainedModel) -> PreTrainedModel:
    base = network.base_model
    if base is network and not hasattr(network, "language_model"):  # Llama 4's text network names a base model that it does not have
        return next((child for child in network.children() if isinstance(child, PreTrainedModel)), network)
    return base
