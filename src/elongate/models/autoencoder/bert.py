"""Opens a pretrained BERT that becomes an encoder."""

from __future__ import annotations

import torch
from transformers import AutoConfig, BertModel

from elongate.errors import ConfigError
from elongate.foreign import foreign
from elongate.models.source import WRITTEN_BY, ModelSource


def open_bert(source: ModelSource, key: str) -> BertModel:
    """Return the BERT without its pooler and its heads. Raises `ConfigError`, which names `key`."""
    where = source.arguments()
    with foreign(lambda reason: ConfigError(key, source.name, f"cannot be opened: {reason}", f"{WRITTEN_BY}, or a hub id")):
        config = AutoConfig.from_pretrained(**where)
        if config.model_type != "bert":
            rule = f"is a {config.model_type}, which cannot be the encoder"
            raise ConfigError(key, source.name, rule, "name a BERT, or use null")
        source.require_unquantized(key, config)
        config.attention_probs_dropout_prob = 0.0
        # On the CPU, also inside the planner, which builds fresh networks on the meta device.
        with torch.device("cpu"):
            bert, loaded = BertModel.from_pretrained(
                **where,
                config=config,
                add_pooling_layer=False,
                use_safetensors=True,
                dtype="float32",
                output_loading_info=True,
            )
    if missing := sorted(loaded["missing_keys"]):
        raise source.damaged(key, f"{missing[0]} is missing ({len(missing)} such weights)")
    return bert
