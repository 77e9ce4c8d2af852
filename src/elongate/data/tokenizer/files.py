"""The files of a tokenizer: which there are, and whether what this package reads of them has the right form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elongate.errors import ConfigError
from elongate.foreign import foreign

# The files that other programs need to open or convert a saved tokenizer.
FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt",
)  # fmt: skip
TEMPLATES = "additional_chat_templates/*.jinja"
REMEDY = "choose another checkpoint with {key}=<hub id or folder>"
_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer files of a folder by name. Raises `ConfigError` for the key "source" if one is broken."""
    found = [folder / name for name in FILES if (folder / name).is_file()] + sorted(folder.glob(TEMPLATES))
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if name in files:
            _check(name, files[name], folder)
    return files


def _check(name: str, content: bytes, folder: Path) -> None:
    def broken(what: str) -> ConfigError:
        return ConfigError("source", folder, f"its tokenizer files are broken ({name}: {what})", REMEDY)

    with foreign(broken):
        found = json.loads(content.decode("utf-8"))
    if what := "it contains no object" if not isinstance(found, dict) else _fault(name, found):
        raise broken(what)


def _fault(name: str, found: dict[str, Any]) -> str | None:
    """The first key whose value has another form than this package reads, and what it should be; None if there is none."""
    if name == "tokenizer.json":
        added = found.get("added_tokens", [])
        is_sound = isinstance(added, list) and all(isinstance(token, dict) and isinstance(token.get("content"), str) for token in added)
        return None if is_sound else "added_tokens is not a list of tokens with a content"
    if name == "added_tokens.json":
        wrong = next((token for token, number in found.items() if not _is_id(number)), None)
        return None if wrong is None else f"the id of {wrong} is not a number"
    for role in _ROLES:
        token = found.get(role)
        if not (token is None or isinstance(token, str) or (isinstance(token, dict) and isinstance(token.get("content"), str))):
            return f"{role} is neither a text nor an object with a content"
    listed = found.get("added_tokens_decoder", {})
    if not isinstance(listed, dict) or not all(
        number.isdecimal() and _is_id(int(number)) and _is_token(one) for number, one in listed.items()
    ):
        return "added_tokens_decoder is not an object of tokens by their ids"
    if not isinstance(found.get("split_special_tokens", False), bool):
        return "split_special_tokens is neither true nor false"
    return None


def _is_id(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**32


def _is_token(one: Any) -> bool:
    flags = [one.get(flag, False) for flag in _FLAGS] if isinstance(one, dict) else []
    return bool(flags) and isinstance(one.get("content"), str) and all(isinstance(flag, bool) for flag in flags)
