"""The tokenizer of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elongate.data.source import Source
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.comparison import agree_with_transformers
from elongate.data.tokenizer.files import FILES, REMEDY, TEMPLATES
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.subword import SubwordTokenizer
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError, first_line
from elongate.hub import hub_answers


@dataclass(kw_only=True)
class Pretrained:
    """A tokenizer that is used as it is. Code in a checkpoint is never run."""

    source: str | None = None  # hub id or folder; null: the source of the model
    key = "source"  # the key named in errors; a full key if the source was given elsewhere

    def fit(self, source: Source) -> Tokenizer:
        if self.source is None:
            raise ConfigError("source", None, "is required", "use {key}=<hub id or folder>")
        try:
            folder = _folder_of(self.source)
            tokenizer = load_tokenizer(folder)
            if isinstance(tokenizer, SubwordTokenizer) and not isinstance(tokenizer, ByteTokenizer):
                agree_with_transformers(tokenizer, folder)
            return tokenizer
        except ConfigError as fault:
            raise ConfigError(self.key, self.source, fault.rule, fault.remedy) from fault


def _folder_of(source: str) -> Path:
    """The folder itself, or the cached copy of a hub repository, which is downloaded if it is missing."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    answers = hub_answers()
    try:
        patterns = [*FILES, TEMPLATES, "config.json"]
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns, local_files_only=not answers))
    except HFValidationError as fault:
        raise ConfigError("source", source, "no such folder, and not a hub id (owner/name)", REMEDY) from fault
    except LocalEntryNotFoundError as fault:
        rule = "no such folder here, and the hub cannot be reached to look there"
        raise ConfigError("source", source, rule, "connect to the network or give {key} a folder") from fault
    except HfHubHTTPError as fault:
        rule = f"cannot be downloaded from the hub ({first_line(fault)})"
        raise ConfigError("source", source, rule, REMEDY) from fault
