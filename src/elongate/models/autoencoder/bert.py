"""A pretrained BERT, opened to become an encoder. Weights are read from safetensors only, and no code that comes with them is run."""

from __future__ import annotations

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, BertModel

from elongate.errors import ConfigError
from elongate.hub import hub_answers
from elongate.models.pretrained import Pretrained


def opened(source: str) -> BertModel:
    """From a hub id or a folder, without its pooler and its heads. Raises `ConfigError`."""
    checkpoint = Pretrained(source=source)
    where = {
        "pretrained_model_name_or_path": str(checkpoint.folder) if checkpoint.is_folder else source,
        "trust_remote_code": False,
        "local_files_only": checkpoint.is_folder or not hub_answers(),
    }
    try:
        config = AutoConfig.from_pretrained(**where)
        if config.model_type != "bert":
            raise ConfigError("model.encoder", source, f"is a {config.model_type}, which cannot be the encoder", "name a BERT, or use null")
        config.attention_probs_dropout_prob = 0.0
        # On the CPU, whatever device a fresh network is tried out on.
        with torch.device("cpu"):
            bert, loaded = BertModel.from_pretrained(
                **where, config=config, add_pooling_layer=False, use_safetensors=True, dtype="float32", output_loading_info=True
            )
    except (OSError, HFValidationError, SafetensorError, RuntimeError, ValueError) as fault:
        rule = f"cannot be opened: {(str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip('.')}"
        raise ConfigError("model.encoder", source, rule, "name a folder written by save_pretrained, or a hub id") from fault
    if missing := sorted(loaded["missing_keys"]):
        rule = f"is damaged: {missing[0]} is missing ({len(missing)} such weights)"
        raise ConfigError("model.encoder", source, rule, "fetch or save the checkpoint again")
    return bert
