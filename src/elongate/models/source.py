"""Where a checkpoint is: a folder, or a repository on the hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate.console import warn
from elongate.errors import ConfigError, first_line, require
from elongate.trees import flatten

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WRITTEN_BY = "name a folder written by save_pretrained"  # the remedy for a folder that cannot be opened
CONTAINS_ADAPTER = (
    "contains an adapter, which is not a whole model",
    "merge it into its model with peft's merge_and_unload, and name the folder of that",
)
_END = 1 << 20  # bytes
_DESCRIBING = ["*.json", "*.jinja", "*.txt", "*.md", "LICENSE*", "NOTICE*", "USE_POLICY*"]  # files besides the weights


@dataclass(frozen=True)
class ModelSource:
    """A hub id or a folder. Weights are read from safetensors only, and code in a checkpoint is never run."""

    name: str
    revision: str | None = None  # of the hub's repository: branch, tag or commit

    @property
    def is_folder(self) -> bool:
        """A name written as a path (`./x`, `/x`) is never looked up on the hub, so that a typo fails immediately."""
        return self.folder.exists() or self.name.startswith((".", "/", "~")) or self.name.count("/") > 1

    @property
    def folder(self) -> Path:
        return Path(self.name).expanduser()

    def require_model(self, key: str) -> None:
        """Raises `ConfigError` for a folder without a model. Nothing is looked up on the hub."""
        require(self.name != "", key, self.name, "must be a hub id or a folder", "use {key}=<folder>")
        if not self.is_folder:
            return
        require(self.folder.exists(), key, self.name, "there is no such folder", f"{WRITTEN_BY}, or a hub id")
        require(not (self.folder / "adapter_config.json").is_file(), key, self.name, *CONTAINS_ADAPTER)
        has_config = (self.folder / "config.json").is_file()
        require(has_config, key, self.name, "is not a checkpoint: it contains no config.json", WRITTEN_BY)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments with which `from_pretrained` opens it."""
        from elongate.hub import hub_answers

        return {
            "pretrained_model_name_or_path": str(self.folder) if self.is_folder else self.name,
            "revision": self.revision,
            "trust_remote_code": False,
            "local_files_only": self.is_folder or not hub_answers(),
        }

    def files(self) -> Path:
        """Return the folder, or the cached copy of the hub's repository with the files that describe it."""
        if self.is_folder:
            return self.folder
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        from elongate.hub import hub_answers

        fetch = partial(huggingface_hub.snapshot_download, self.name, revision=self.revision, allow_patterns=_DESCRIBING)
        try:
            return Path(fetch(local_files_only=not hub_answers()))
        except (HfHubHTTPError, LocalEntryNotFoundError) as fault:
            # Opening the model has stored its weights and its configuration.
            warn(f"the files of {self.name} besides its weights cannot be downloaded ({first_line(fault)}); the export lacks them")
            return Path(fetch(local_files_only=True))

    def fingerprint(self) -> str | None:
        """Return a hash of names, sizes and both ends of the weight files, because large files take minutes to read; None for a hub id."""
        if not self.is_folder:
            return None
        digest = hashlib.sha256()
        for file in sorted(self.folder.glob("*.safetensors")):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(_END))
                stream.seek(max(0, size - _END))
                digest.update(stream.read())
        return digest.hexdigest()

    def require_unquantized(self, key: str, config: PreTrainedConfig) -> None:
        """Raises `ConfigError` for quantized weights. transformers loads some formats as if they were not quantized."""
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            for name in ("quantization_config", "compression_config"):
                if (settings := getattr(part, name, None)) is not None:
                    method = settings.get("quant_method") or "a method that config.json does not name"
                    rule = f"contains quantized weights ({method}), which cannot be trained or exported"
                    remedy = "dequantize it and save it with save_pretrained, or name the repository of the unquantized weights"
                    raise ConfigError(key, self.name, rule, remedy)

    def require_numbers(self, key: str, config: PreTrainedConfig) -> None:
        """Raises `ConfigError` for parameters of the positions that are not numbers. transformers does not check them."""
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            parameters = getattr(part, "rope_parameters", None) or {}
            if not isinstance(parameters, dict):
                raise self.damaged(key, "in its config.json rope_parameters is not an object")
            for name, value in flatten(parameters).items():
                numbers = value if isinstance(value, list) else [value]
                is_word = name.rpartition(".")[2] in ("rope_type", "type")
                if not is_word and any(number is not None and not isinstance(number, int | float) for number in numbers):
                    raise self.damaged(key, f"in its config.json {name} is {json.dumps(value, default=str)}, not a number")

    def damaged(self, key: str, what: str) -> ConfigError:
        """Return the error for a checkpoint whose files are damaged."""
        return ConfigError(key, self.name, f"is damaged: {what}", "fetch or save the checkpoint again")
