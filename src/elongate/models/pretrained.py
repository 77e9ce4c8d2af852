"""A causal or masked transformers checkpoint: a hub id or a folder.

Weights are read from safetensors only, and no code that comes with it is run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import ConfigError, require
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.models.model import Model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from elongate.models.language_model import LanguageModel

# Their tables of positions begin with rows for padding, which max_position_embeddings counts too.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text")
_ADAPTER = ("holds an adapter, which is no model", "merge it into its model with peft's merge_and_unload, and name the folder of that")


@dataclass(frozen=True, kw_only=True)
class Pretrained(Model):
    source: str  # hub id or folder
    revision: str | None = None  # of the hub's repository: branch, tag or commit
    attention_dropout: float = 0.0  # whatever the checkpoint says, below 1; above 0 memory grows with the square of the length

    word: ClassVar[str] = "pretrained"
    fresh: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rule = "must be at least 0 and below 1"
        require(0 <= self.attention_dropout < 1, "attention_dropout", self.attention_dropout, rule, "use {key}=0")
        require(self.source != "", "source", self.source, "must be a hub id or a folder", "use {key}=<folder>")
        if self.is_folder:
            remedy = "name a folder written by save_pretrained"
            require(self.folder.exists(), "source", self.source, "there is no such folder", f"{remedy}, or a hub id")
            alone = not (self.folder / "adapter_config.json").is_file()
            require(alone, "source", self.source, *_ADAPTER)
            known = (self.folder / "config.json").is_file()
            require(known, "source", self.source, "is no checkpoint: it holds no config.json", remedy)

    @property
    def is_folder(self) -> bool:
        """A path that is written as one (`./x`, `/x`) is never looked up on the hub, so that a slip of the pen is told at once."""
        return self.folder.exists() or self.source.startswith((".", "/", "~")) or self.source.count("/") > 1

    @property
    def folder(self) -> Path:
        return Path(self.source).expanduser()

    @cached_property
    def original_length(self) -> int | None:  # type: ignore[override]  # derived here, given elsewhere
        if not self.is_folder:
            return None
        try:
            return _trained_length(json.loads((self.folder / "config.json").read_text()))
        except (ValueError, AttributeError) as fault:
            rule = f"is damaged: its config.json cannot be read ({_first_line(fault)})"
            raise ConfigError("model.source", self.source, rule, "fetch or save the checkpoint again") from fault

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        from huggingface_hub.errors import HFValidationError
        from safetensors import SafetensorError
        from transformers.utils import logging as transformers_logging

        import elongate.models.autoencoder.network  # noqa: F401  # registers it with the Auto classes
        from elongate.context.attention.kernel.interface import IMPLEMENTATION
        from elongate.hub import hub_answers
        from elongate.models import elongate_format as own_format

        # Its report of what does not fit, ten lines of it; ours is one.
        transformers_logging.set_verbosity_error()
        source = str(self.folder) if self.is_folder else self.source
        where = {
            "revision": self.revision,
            "trust_remote_code": False,
            "local_files_only": self.is_folder or not hub_answers(),
        }
        try:
            config, ours = own_format.read_config(source, **where)
            for key in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"):
                if hasattr(config, key):
                    setattr(config, key, self.attention_dropout)
            opener, wrapper = _classes(config)
            network, loaded = opener.from_pretrained(
                source,
                **where,
                config=config,
                variant=None if ours is None else own_format.VARIANT,
                use_safetensors=True,
                dtype="float32",
                attn_implementation=IMPLEMENTATION,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, HFValidationError) as fault:
            raise self._refusal(fault) from fault
        except (SafetensorError, RuntimeError) as fault:
            raise ConfigError(
                "model.source", self.source, f"is damaged: {_first_line(fault)}", "fetch or save the checkpoint again"
            ) from fault
        except (ValueError, KeyError) as fault:
            rule = f"is no causal or masked language model that transformers can open: {_first_line(fault)}"
            raise ConfigError("model.source", self.source, rule, "name a causal or masked checkpoint") from fault
        # With the peft library at hand, transformers puts an adapter that it finds onto the model, and would save nothing but that.
        if getattr(network, "peft_config", None):
            raise ConfigError("model.source", self.source, *_ADAPTER)
        # Both would be filled with random numbers.
        if unfit := sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}):
            rule = f"is damaged: {unfit[0]} is missing or of another shape than its config.json says ({len(unfit)} such weights)"
            raise ConfigError("model.source", self.source, rule, "fetch or save the checkpoint again")
        model = wrapper(network, word=self.word)
        check_vocabulary(model, vocab_size)
        if ours is not None:
            model.place(own_format.read_position(ours, self.source), ours["original_length"], ours["length"])
        return model

    def _refusal(self, fault: Exception) -> ConfigError:
        if self.is_folder:
            return ConfigError(
                "model.source", self.source, f"cannot be opened: {_first_line(fault)}", "name a folder written by save_pretrained"
            )
        rule = "is neither a folder here nor a repository that the hub hands out (is there a network?)"
        return ConfigError("model.source", self.source, rule, "check the spelling, or name a folder")


def check_vocabulary(model: LanguageModel, vocab_size: int) -> None:
    """Raises `ConfigError` for a tokenizer with more tokens than the model has embeddings."""
    if vocab_size > (rows := model.network.config.vocab_size):
        rule = f"has {vocab_size} tokens, the checkpoint's embedding {rows}"
        raise ConfigError("tokenizer", "", rule, "use tokenizer=pretrained")


def _classes(config: PreTrainedConfig) -> tuple[Any, type[LanguageModel]]:
    """The Auto class that opens the checkpoint, and what its network becomes.

    By the head that it was saved with, and by what its architecture can be where that says nothing.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    from elongate.models.autoencoder.autoencoder import Autoencoder
    from elongate.models.language_model import LanguageModel

    if config.model_type == BidirectionalAutoencoder.word:
        return AutoModelForMaskedLM, Autoencoder
    saved = (config.architectures or [""])[0]
    can_mask, only_masks = type(config) in MODEL_FOR_MASKED_LM_MAPPING, type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    masks = can_mask and (only_masks or saved.endswith(("ForMaskedLM", "ForPreTraining")))
    return AutoModelForMaskedLM if masks else AutoModelForCausalLM, LanguageModel


def _trained_length(config: dict[str, Any]) -> int | None:
    """Tokens that the positions of a transformers configuration reach to."""
    behind_padding = config.get("pad_token_id", 1) + 1 if config.get("model_type") in _BEHIND_PADDING else 0
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if key in config:
            return int(config[key]) - behind_padding
    return None


def _first_line(fault: Exception) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")
