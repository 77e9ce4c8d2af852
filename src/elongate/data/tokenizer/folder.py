"""Loads a tokenizer from a folder of files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.files import REMEDY, read_files
from elongate.data.tokenizer.subword import SubwordTokenizer, end_of_document, without_mask_token
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError, require
from elongate.foreign import foreign

_WITHOUT = "take the tokenizer of another checkpoint with tokenizer=pretrained tokenizer.source=<hub id or folder>"
_USUAL = "a few words"
_RARE = "\x00 é 漢 🜁"  # no tokenizer without bytes and without a token for unknown text can encode it


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder; the byte tokenizer is recognized and gets its fast class.

    Uses transformers only if there is no tokenizer.json, or if only the tokenizer's class knows the end of a document.
    Raises `ConfigError` for the key "source" if the folder has no tokenizer or a broken one.
    """
    require(folder.is_dir(), "source", folder, "no such folder", REMEDY)

    def broken(reason: str) -> ConfigError:
        return ConfigError("source", folder, f"its tokenizer files are broken ({reason})", REMEDY)

    files = read_files(folder)
    has_tokens = any("chat_template" not in name for name in files)
    require(has_tokens, "source", folder, "contains no tokenizer files", _WITHOUT)
    try:
        if "tokenizer.json" not in files or end_of_document(files) is None:
            files = _files_through_transformers(folder)
        require(end_of_document(files) is not None, "source", folder, "its tokenizer has no eos_token", REMEDY)
        with foreign(broken):
            plain = without_mask_token(files)
            tokenizer = SubwordTokenizer(files if plain is None else plain)
            num_tokens = len(tokenizer.encode(_RARE)), len(tokenizer.encode(_USUAL))
        require(min(num_tokens) > 0, "source", folder, "its tokenizer gives no tokens for some texts", REMEDY)
    except ValueError as fault:
        raise broken(str(fault)) from fault
    if tokenizer.fingerprint == ByteTokenizer().fingerprint:
        tokenizer = ByteTokenizer(files if plain is None else plain)  # with its chat template
    return tokenizer if plain is None else tokenizer.with_mask()


def _files_through_transformers(folder: Path) -> dict[str, bytes]:
    import transformers

    with foreign(lambda reason: ConfigError("source", folder, f"its tokenizer cannot be opened ({reason})", REMEDY)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as aside:
        tokenizer.save_pretrained(aside)
        files = read_files(Path(aside))
    rule = "its tokenizer has no fast version (tokenizer.json)"
    require("tokenizer.json" in files, "source", folder, rule, REMEDY)
    return files
