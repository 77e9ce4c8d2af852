"""The tokenizer that a checkpoint brings along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elongate.data.source import Source
from elongate.data.tokenizer.folder import REMEDY, load_tokenizer
from elongate.data.tokenizer.subword import FILES
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError
from elongate.hub import hub_answers


@dataclass(kw_only=True)
class Pretrained:
    """Opened as it is; code that a checkpoint brings along is never run."""

    source: str | None = None  # hub id or folder; null stands for the source of the model
    key = "source"  # where the source was given, in what is said of it: a full key where that is not here

    def fit(self, source: Source) -> Tokenizer:
        if self.source is None:
            raise ConfigError("source", None, "names no tokenizer", "set {key}=<hub id or folder>")
        try:
            return load_tokenizer(_folder_of(self.source))
        except ConfigError as fault:
            raise ConfigError(self.key, self.source, fault.rule, fault.remedy) from fault


def _folder_of(source: str) -> Path:
    """The folder itself, or the copy of the hub's files in its cache (no network is needed once they are there)."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    answers = hub_answers()
    try:
        patterns = [*FILES, "config.json"]
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns, local_files_only=not answers))
    except HFValidationError as error:
        raise ConfigError("source", source, "no such folder, and no hub id (owner/name) either", REMEDY) from error
    except LocalEntryNotFoundError as error:
        rule = "no such folder here, and the hub cannot be reached to look there"
        raise ConfigError("source", source, rule, "connect to the network or give {key} a folder") from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError("source", source, f"cannot be had from the hub ({reason})", REMEDY) from error
