"""A causal or masked transformers checkpoint: a hub id or a folder.

Weights are read from safetensors only, and no code that comes with them is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import ConfigError, first_line
from elongate.foreign import foreign, reason
from elongate.models.checks import require_dropouts, require_export_dtype
from elongate.models.model import Model
from elongate.models.source import CONTAINS_ADAPTER, WRITTEN_BY, ModelSource
from elongate.models.trained_length import LENGTH_KEYS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from elongate.models.language_model import LanguageModel

_KEY = "model.source"
# Their tables of positions begin with rows for padding, which max_position_embeddings counts too.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text")
_ATTENTION_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


@dataclass(frozen=True, kw_only=True)
class Pretrained(Model):
    """A transformers checkpoint."""

    source: str  # hub id or folder
    revision: str | None = None  # of the hub's repository: branch, tag or commit
    attention_dropout: float = 0.0  # replaces the checkpoint's, in [0, 1); above 0 memory is quadratic in the length
    export_dtype: str = "auto"  # of the exported weights: auto (that of the checkpoint), float32, bfloat16 or float16

    word: ClassVar[str] = "pretrained"
    fresh: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_export_dtype(self)
        require_dropouts(self, "attention_dropout")
        self._where.require_model("source")

    @property
    def is_folder(self) -> bool:
        """Return whether the source is a folder and not a hub id."""
        return self._where.is_folder

    @property
    def folder(self) -> Path:
        """Return the source as a path."""
        return self._where.folder

    @property
    def tokenizer_source(self) -> str | None:
        return self.source

    @property
    def fingerprint(self) -> str | None:
        return self._where.fingerprint()

    @cached_property
    def original_length(self) -> int | None:  # type: ignore[override]  # derived here, given elsewhere
        if not self.is_folder:
            return None
        with foreign(lambda reason: self._where.damaged(_KEY, f"its config.json cannot be read ({reason})")):
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise self._where.damaged(_KEY, "its config.json contains no object")
        try:
            return _trained_length(config)
        except ValueError as fault:
            raise self._where.damaged(_KEY, f"in its config.json {fault}") from fault

    def build(self, vocab_size: int, seed: int) -> LanguageModel:
        with foreign(self._refusal), self._loading():
            config, ours = self._read_config()
            opener, wrapper = _classes(config)
            network, loaded = _open(opener, self._loading_arguments(config, ours is not None))
        self._check_loaded(network, loaded)
        model = wrapper(network, word=self.word)
        check_vocabulary(model, vocab_size)
        self.restore_position(model)
        return model

    def describe(self, vocab_size: int) -> LanguageModel:
        import torch

        with foreign(self._refusal), self._loading():
            config, _ = self._read_config()
            opener, wrapper = _classes(config)
            with torch.device("meta"):
                network, _ = _open(_FromConfig(opener), self._loading_arguments(config, own_format=False))
        model = wrapper(network, word=self.word)
        check_vocabulary(model, vocab_size)
        return model

    def restore_position(self, model: LanguageModel) -> None:
        from elongate.models import elongate_format

        with foreign(self._refusal), self._loading():
            _, ours = elongate_format.read_config(_KEY, self._where)
        if ours is not None:
            position = elongate_format.read_position(ours, self.source)
            model.place(position, ours["original_length"], ours["length"])

    def _read_config(self) -> tuple[PreTrainedConfig, dict[str, Any] | None]:
        """Return the configuration as transformers knows it, and our part of it."""
        from transformers.utils import logging as transformers_logging

        import elongate.models.autoencoder.network  # noqa: F401  # registers it with the Auto classes
        from elongate.models import elongate_format

        # transformers reports tensors that do not fit in ten lines; our error is one line.
        transformers_logging.set_verbosity_error()
        config, ours = elongate_format.read_config(_KEY, self._where)
        self._where.require_unquantized(_KEY, config)
        self._where.require_numbers(_KEY, config)
        self._complete_config(config.get_text_config(decoder=True))
        names = config.architectures or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._where.damaged(_KEY, "in its config.json architectures is not a list of names")
        return config, ours

    def files(self) -> Path:
        return self._where.files()

    def _complete_config(self, config: PreTrainedConfig) -> None:
        """Set the attention dropout, and the size of heads where it follows from others: some positions cannot derive it."""
        from elongate.models.parts import head_dim

        for key in _ATTENTION_DROPOUTS:
            if hasattr(config, key):
                setattr(config, key, self.attention_dropout)
        if not config.is_heterogeneous and getattr(config, "head_dim", 0) is None:
            config.head_dim = head_dim(config)

    @property
    def _where(self) -> ModelSource:
        return ModelSource(self.source, self.revision)

    def _loading_arguments(self, config: PreTrainedConfig, own_format: bool) -> dict[str, Any]:
        from elongate.context.attention.kernel.interface import IMPLEMENTATION
        from elongate.models.elongate_format import VARIANT

        return self._where.arguments() | {
            "config": config,
            "variant": VARIANT if own_format else None,
            "use_safetensors": True,
            "dtype": "float32",
            "attn_implementation": IMPLEMENTATION,
            "ignore_mismatched_sizes": True,
            "output_loading_info": True,
        }

    def _refusal(self, reason: str) -> ConfigError:
        """The error for a fault that `_loading` does not know."""
        return ConfigError(_KEY, self.source, f"cannot be opened: {reason}", f"{WRITTEN_BY}, or a hub id")

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Turns the usual faults of transformers with a checkpoint into a `ConfigError` that names the reason."""
        from huggingface_hub.errors import HFValidationError
        from safetensors import SafetensorError

        from elongate.context.attention.kernel.interface import IMPLEMENTATION

        try:
            yield
        except (OSError, HFValidationError) as fault:
            rule = "is neither a folder here nor a repository that the hub can serve (is there a network?)"
            remedy = "check the spelling, or name a folder"
            if self.is_folder:
                rule, remedy = f"cannot be opened: {first_line(fault)}", WRITTEN_BY
            raise ConfigError(_KEY, self.source, rule, remedy) from fault
        except (SafetensorError, RuntimeError) as fault:
            raise self._where.damaged(_KEY, first_line(fault)) from fault
        except (ValueError, KeyError) as fault:
            rule, remedy = (
                f"is not a causal or masked language model that transformers can open: {reason(fault)}",
                "name a causal or masked checkpoint",
            )
            # Architectures with attention code of their own look it up by the name of the implementation.
            if fault.args == (IMPLEMENTATION,):
                rule = "has attention code of its own, which attention in regions cannot replace"
            raise ConfigError(_KEY, self.source, rule, remedy) from fault

    def _check_loaded(self, network: Any, loaded: dict[str, Any]) -> None:
        """Raises `ConfigError` for an adapter, and for weights that transformers filled with random numbers."""
        # With peft installed, transformers loads an adapter from the folder, and would then save nothing else.
        if getattr(network, "peft_config", None):
            raise ConfigError(_KEY, self.source, *CONTAINS_ADAPTER)
        if unfit := sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}):
            what = f"{unfit[0]} is missing or its shape differs from config.json ({len(unfit)} such weights)"
            raise self._where.damaged(_KEY, what)
        for name, weight in network.named_parameters():
            # A sum is quick and needs no further memory, but it can overflow.
            if not weight.sum().isfinite() and not weight.isfinite().all():
                raise self._where.damaged(_KEY, f"{name} contains numbers that are not finite")


@dataclass(frozen=True)
class _FromConfig:
    """Creates a network where an Auto class would open one."""

    opener: Any

    def from_pretrained(self, config: PreTrainedConfig, dtype: str, attn_implementation: str, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.opener.from_config(config, dtype=dtype, attn_implementation=attn_implementation), {}


def _open(opener: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Opens a checkpoint with our attention, or with its own if its code does not use the interface of transformers."""
    from transformers import PreTrainedModel

    from elongate.models.calls import uses_interface

    try:
        network, loaded = opener.from_pretrained(**arguments)
    except KeyError as fault:
        if fault.args != (arguments["attn_implementation"],):  # Falcon, GPT-J, GPT-Neo: a table of classes
            raise
        return opener.from_pretrained(**arguments | {"attn_implementation": "eager"})
    if not uses_interface(network):
        for module in network.modules():
            if isinstance(module, PreTrainedModel):  # `set_attn_implementation` changes nothing in such networks
                module.config._attn_implementation = "eager"
    return network, loaded


def check_vocabulary(model: LanguageModel, vocab_size: int) -> None:
    """Raises `ConfigError` for a tokenizer with more tokens than the model has embeddings."""
    if vocab_size > (rows := model.vocab_size):
        rule = f"gives ids up to {vocab_size - 1}, and the checkpoint's embedding has {rows} rows"
        remedy = "use tokenizer=pretrained with the tokenizer of this checkpoint, or enlarge its embedding with resize_token_embeddings"
        raise ConfigError("tokenizer", "", rule, remedy)


def _classes(config: PreTrainedConfig) -> tuple[Any, type[LanguageModel]]:
    """Return the Auto class that opens the checkpoint, and the class that wraps its network.

    The head that the checkpoint was saved with decides; if it names none, its architecture does.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    from elongate.models.autoencoder.autoencoder import Autoencoder
    from elongate.models.autoencoder.configuration import BidirectionalAutoencoderConfig
    from elongate.models.language_model import LanguageModel

    if config.model_type == BidirectionalAutoencoderConfig.model_type:
        return AutoModelForMaskedLM, Autoencoder
    saved = (config.architectures or [""])[0]
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and "ForCausalLM" not in saved:
        # With its towers, which are exported as they are.
        return AutoModelForImageTextToText, LanguageModel
    can_mask, only_masks = type(config) in MODEL_FOR_MASKED_LM_MAPPING, type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    masks = can_mask and (only_masks or saved.endswith(("ForMaskedLM", "ForPreTraining")))
    return AutoModelForMaskedLM if masks else AutoModelForCausalLM, LanguageModel


def _trained_length(config: dict[str, Any]) -> int | None:
    """Return the length that the positions of a transformers configuration reach to, if it states one.

    Raises `ValueError` if the value is not a positive whole number.
    """
    config = config.get("text_config") or config
    for key in LENGTH_KEYS:
        if key in config:
            behind_padding = _whole(config, "pad_token_id", 1) + 1 if config.get("model_type") in _BEHIND_PADDING else 0
            length = _whole(config, key) - behind_padding
            if length < 1:
                raise ValueError(f"{key} is {config[key]}, which leaves no position for a token")
            return length
    return None


def _whole(config: dict[str, Any], key: str, default: int | None = None) -> int:
    number = config.get(key, default)
    if type(number) is not int:
        raise ValueError(f"{key} is {json.dumps(number)}, not a whole number")
    return number
