"""A causal transformers checkpoint: a hub id or a folder. Weights are read from safetensors only, and no code that comes with it is run."""

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
        from transformers import AutoConfig
        from transformers.utils import logging as transformers_logging

        import elongate.models.autoencoder.network  # noqa: F401  # registers it with the Auto classes
        from elongate.context.attention.interface import IMPLEMENTATION
        from elongate.network import hub_answers

        # Its report of what does not fit, ten lines of it; ours is one.
        transformers_logging.set_verbosity_error()
        where = {
            "pretrained_model_name_or_path": str(self.folder) if self.is_folder else self.source,
            "revision": self.revision,
            "trust_remote_code": False,
            "local_files_only": self.is_folder or not hub_answers(),
        }
        try:
            config = AutoConfig.from_pretrained(**where)
            for key in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"):
                if hasattr(config, key):
                    setattr(config, key, self.attention_dropout)
            opener, wrapper = _classes(config)
            network, loaded = opener.from_pretrained(
                **where,
                config=config,
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
            rule = f"is no causal language model that transformers can open: {_first_line(fault)}"
            raise ConfigError("model.source", self.source, rule, "name a causal checkpoint") from fault
        # With the peft library at hand, transformers puts an adapter that it finds onto the model, and would save nothing but that.
        if getattr(network, "peft_config", None):
            raise ConfigError("model.source", self.source, *_ADAPTER)
        # Both would be filled with random numbers.
        if unfit := sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}):
            rule = f"is damaged: {unfit[0]} is missing or of another shape than its config.json says ({len(unfit)} such weights)"
            raise ConfigError("model.source", self.source, rule, "fetch or save the checkpoint again")
        if vocab_size > network.config.vocab_size:
            rule = f"has {vocab_size} tokens, the checkpoint's embedding {network.config.vocab_size}"
            raise ConfigError("tokenizer", "", rule, "use tokenizer=pretrained")
        return wrapper(network, word=self.word)

    def _refusal(self, fault: Exception) -> ConfigError:
        if self.is_folder:
            return ConfigError(
                "model.source", self.source, f"cannot be opened: {_first_line(fault)}", "name a folder written by save_pretrained"
            )
        rule = "is neither a folder here nor a repository that the hub hands out (is there a network?)"
        return ConfigError("model.source", self.source, rule, "check the spelling, or name a folder")


def _classes(config: PreTrainedConfig) -> tuple[Any, type[LanguageModel]]:
    """The Auto class that opens such a checkpoint, and what its network becomes."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    from elongate.models.autoencoder.autoencoder import Autoencoder
    from elongate.models.language_model import LanguageModel

    if config.model_type == BidirectionalAutoencoder.word:
        return AutoModelForMaskedLM, Autoencoder
    return AutoModelForCausalLM, LanguageModel


def _trained_length(config: dict[str, Any]) -> int | None:
    """Tokens that the positions of a transformers configuration reach to."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if key in config:
            return int(config[key])
    return None


def _first_line(fault: Exception) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")
