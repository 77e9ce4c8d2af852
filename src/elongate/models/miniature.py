"""A small network of the same architecture as one that has no weights.

What is found by running a network (is it causal, do layouts reach its attention, what happens to its logits) follows from
its code and not from its sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from math import gcd
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from elongate.models.language_model import LanguageModel

_LARGEST = 1 << 22  # weights of a network that is used as it is
_VOCABULARY = 512  # tokens
_HEADS = 4  # at least as many remain, because patterns can differ by head
_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "expert_dim", "lora_rank")  # parts of the names of widths besides that of the stream


def miniature(model: LanguageModel, num_layers: int | None) -> LanguageModel:
    """Return a network with random weights, on the CPU: with the first `num_layers` layers and less width, if that can be run.

    `num_layers`: as many as have all kinds of layers; None: all layers are needed.
    """
    network = model.network
    count = sum(parameter.numel() for parameter in network.parameters())
    for config in () if count <= _LARGEST else _smaller(network.config, num_layers):
        try:
            small = _created(model, config)
            with small.probed():
                small.hidden(small.probe_text(8))
        except (ValueError, RuntimeError, TypeError, AttributeError, IndexError, KeyError, AssertionError, ZeroDivisionError):
            continue  # sizes that depend on each other in ways that only this architecture knows
        return small
    return _created(model, copy.deepcopy(network.config))


def _created(model: LanguageModel, config: PreTrainedConfig) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: PreTrainedModel = type(model.network)(config)
        with torch.no_grad():
            for parameter in network.parameters():
                # Fresh weights are so small that what a part of the network does can drown in rounding.
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
    return type(model)(network, word=model.word)


def _smaller(whole: PreTrainedConfig, num_layers: int | None) -> Iterator[PreTrainedConfig]:
    """Yield configurations, the smallest first."""
    for narrow in (True, False):
        config = copy.deepcopy(whole)
        part = config.get_text_config(decoder=True)
        if num_layers is not None:
            _cut_layers(part, num_layers)
        _cut_vocabulary(part)
        if narrow:
            _cut_width(part)
        yield config


def _cut_layers(config: Any, num_layers: int) -> None:
    before = config.num_hidden_layers
    for key, value in vars(config).items():
        if isinstance(value, list | tuple) and len(value) == before:
            setattr(config, key, value[:num_layers])
    config.num_hidden_layers = num_layers


def _cut_vocabulary(config: Any) -> None:
    for key, value in list(vars(config).items()):
        if "vocab_size" in key and isinstance(value, int):
            setattr(config, key, min(value, _VOCABULARY))
        elif key.endswith("token_id") and isinstance(value, int) and value >= _VOCABULARY:
            setattr(config, key, _VOCABULARY - 1)
        elif key.endswith("token_id") and isinstance(value, list):
            setattr(config, key, [min(token, _VOCABULARY - 1) for token in value])


def _cut_width(config: Any) -> None:
    heads = config.num_attention_heads
    shared = gcd(heads, getattr(config, "num_key_value_heads", None) or heads, config.hidden_size)
    factor = max(n for n in range(1, shared + 1) if shared % n == 0 and (n == 1 or heads // n >= _HEADS))
    for key in ("num_attention_heads", "num_key_value_heads", "hidden_size"):
        if getattr(config, key, None):
            setattr(config, key, getattr(config, key) // factor)
    for key, value in list(vars(config).items()):
        if isinstance(value, int) and value >= 16 * factor and any(name in key for name in _WIDTHS):
            setattr(config, key, value // factor)
