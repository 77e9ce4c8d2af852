"""Compares a tokenizer with the one that transformers opens from the same folder.

Files can say more than this project reads, and the class of a tokenizer more than its files. A model whose texts are
split otherwise than in its own training is measured wrongly without any other sign.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elongate.console import warn
from elongate.data.tokenizer.subword import SubwordTokenizer
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError, RunError
from elongate.foreign import foreign

_WORDS = "A naïve test, 3.14 + 2026:\n  two  spaces"


def agree_with_transformers(tokenizer: SubwordTokenizer, folder: Path) -> None:
    """Compares the tokens of a text with every added token, and sets `beginning` to what transformers puts before texts.

    Raises `ConfigError` for the key "source" that names the first text with other tokens.
    """
    from transformers import AutoTokenizer

    texts = _texts(tokenizer)
    try:
        with foreign(RunError):
            theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model: Any = getattr(getattr(theirs, "backend_tokenizer", None), "model", None)
            if getattr(model, "dropout", None):
                model.dropout = None
            expected = theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]
    except RunError as fault:
        warn(f"{folder}: transformers cannot use the tokenizer ({fault}), so it is read without a comparison")
        return
    for text, ours, their_ids in zip(texts, tokenizer.encode_batch(texts), expected, strict=True):
        if ours.tolist() != list(their_ids):
            rule = f"its tokenizer.json gives other tokens than transformers.AutoTokenizer for {text!r}"
            remedy = "open it with AutoTokenizer, save it with save_pretrained, and give {key} that folder"
            raise ConfigError("source", folder, rule, remedy)
    tokenizer.beginning = _beginning(theirs)


def verify_saved(tokenizer: Tokenizer, folder: Path, length: int) -> bool:
    """Return whether transformers opens the saved tokenizer as the same one, with texts of at most `length` tokens.

    False if transformers cannot use it; opening it has printed a warning then. Raises `RunError` if it differs.
    """
    from transformers import AutoTokenizer

    texts = _texts(tokenizer)
    try:
        with foreign(RunError):
            theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            found = [list(ids) for ids in theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    except RunError:
        return False
    expected = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    differing = [text for text, ids, their_ids in zip(texts, expected, found, strict=True) if ids != their_ids]
    what = [f"other tokens for {differing[0]!r}"] if differing else []
    if (beginning := _beginning(theirs)) != tokenizer.beginning:
        what += [f"{list(beginning)} before every text instead of {list(tokenizer.beginning)}"]
    if theirs.model_max_length != length:
        what += [f"texts of at most {theirs.model_max_length} tokens instead of {length}"]
    if what:
        raise RunError(
            f"the export {folder} has another tokenizer: AutoTokenizer gives {what[0]}; this is a fault of Elongate, please report it"
        )
    return True


def _texts(tokenizer: Tokenizer) -> list[str]:
    added = tokenizer.added_tokens if isinstance(tokenizer, SubwordTokenizer) else []
    return [_WORDS, *(f"a {token}b {token} c" for token in added)]


def _beginning(theirs: Any) -> tuple[int, ...]:
    """The tokens that come before the words of a text."""
    whole, words = (theirs("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    starts = range(len(whole) - len(words) + 1) if words else range(0)
    return tuple(whole[: next((i for i in starts if whole[i : i + len(words)] == words), 0)])
