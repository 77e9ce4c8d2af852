"""Completes an exported folder: what config.json lacks, the files that came with the source, and the lengths in all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elongate.data.tokenizer.files import FILES

_SUFFIXES = (".json", ".jinja", ".txt", ".md", ".model", "")
_LICENCES = ("license", "licence", "notice", "use_policy", "copying", "copyright")
_LARGEST = 16 << 20  # bytes
# Written by the export itself, or about files that are not part of it.
_NOT_COPIED = ("config.json", "generation_config.json", "readme.md", "trainer_state.json", "training_args.json", *FILES)
_LENGTH_KEYS = ("model_max_length", "max_length", "max_len", "max_seq_length")  # tokens of a text, in files besides the weights


def copy_companions(source: Path, folder: Path) -> list[str]:
    """Copy what describes the checkpoint besides weights, configuration and tokenizer: processors, licences; return the names.

    The tokenizer of the run writes its own files: it may be another one.
    """
    copied = []
    for file in sorted(source.iterdir()):
        name = file.name.lower()
        described = file.suffix in _SUFFIXES and (file.suffix != "" or name.startswith(_LICENCES))
        if not described or name in _NOT_COPIED or name.startswith(".") or name.endswith(".index.json"):
            continue
        if file.is_file() and file.stat().st_size <= _LARGEST and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
            copied.append(file.name)
    return copied


def complete_config(folder: Path, ids: Mapping[str, int]) -> None:
    """Add special tokens where the source states none, and the keys of transformers 4. `ids`: by role, such as eos_token_id."""
    from elongate.models.legacy_config import with_legacy_keys

    def complete(config: dict[str, Any]) -> dict[str, Any]:
        # The code of a checkpoint is not exported, and this folder does not need it.
        config.pop("auto_map", None)
        text = config["text_config"] if isinstance(config.get("text_config"), dict) and "vocab_size" not in config else config
        _add_ids(text, {role: number for role, number in ids.items() if number < text.get("vocab_size", 0)})
        return with_legacy_keys(config)

    edit_json(folder / "config.json", complete)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stated = config | (config.get("text_config") or {})
    known = {role: stated.get(role) for role in ids if stated.get(role) is not None}
    edit_json(folder / "generation_config.json", lambda generation: _add_ids(generation, known))


def state_length(folder: Path, before: int, length: int) -> None:
    """Write the new length into every file besides the weights that states the length of a text.

    `before`: the length that the source stated, in tokens.
    """

    def tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
        return config | {key: length for key in _LENGTH_KEYS if key in config} | {"model_max_length": length}

    def truncation(content: dict[str, Any]) -> dict[str, Any]:
        if content.get("truncation"):
            content["truncation"]["max_length"] = length
        return content

    def generation(config: dict[str, Any]) -> dict[str, Any]:
        # Another value was chosen as the limit of generated tokens, so it stays.
        return config | ({"max_length": length} if config.get("max_length") == before else {})

    edit_json(folder / "tokenizer_config.json", tokenizer_config)
    edit_json(folder / "tokenizer.json", truncation)
    edit_json(folder / "generation_config.json", generation)
    for file in sorted(folder.glob("*.json")):
        if file.name not in (*FILES, "config.json", "generation_config.json") and not file.name.endswith(".index.json"):
            edit_json(file, lambda content: _replaced(content, before, length))


def edit_json(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite a file that contains a JSON object, if it exists and the change changes it."""
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError:
        return  # not ours: it is exported as it came
    if not isinstance(content, dict):
        return
    changed = change(json.loads(text))
    if changed != content:
        file.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _add_ids(config: dict[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    config |= {role: number for role, number in ids.items() if config.get(role) is None}
    return config


def _replaced(content: Any, before: int, length: int) -> Any:
    """Replace the old length below keys that state one."""
    if isinstance(content, list):
        return [_replaced(value, before, length) for value in content]
    if not isinstance(content, dict):
        return content
    return {key: length if key in _LENGTH_KEYS and value == before else _replaced(value, before, length) for key, value in content.items()}
