"""Writes the weights and the configuration of a network."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel

from elongate.models.stored_dtype import StoredDtypes


def save_network(network: PreTrainedModel, folder: Path, dtypes: StoredDtypes, variant: str | None = None) -> None:
    """Write the folder as `save_pretrained` does, with weights of these dtypes."""
    generation = getattr(network, "generation_config", None)
    if generation is not None:
        # transformers refuses to save what some published checkpoints contain, such as a temperature without sampling.
        network.generation_config = GenerationConfig()
    try:
        network.save_pretrained(folder, state_dict=dtypes.state(network), safe_serialization=True, variant=variant)
    finally:
        network.generation_config = generation
    if generation is not None and network.can_generate():
        generation.to_json_file(folder / "generation_config.json")
    file = folder / "config.json"
    # save_pretrained writes the dtype of the network in memory.
    config = json.loads(file.read_text(encoding="utf-8")) | {"dtype": str(dtypes)}
    for part in config.values():
        if isinstance(part, dict) and "dtype" in part:  # the text part of a multimodal model
            part["dtype"] = str(dtypes)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
