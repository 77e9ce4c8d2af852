"""Tokenizers that the `tokenizers` library reads from files, without transformers or torch."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers
from tokenizers.processors import TemplateProcessing

from elongate.data.tokenizer.blocks import encode_blocks
from elongate.data.tokenizer.files import read_files
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError

END_OF_DOCUMENT = "<|endoftext|>"
MASK = "[MASK]"
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class SubwordTokenizer(Tokenizer):
    """A tokenizer.json and its accompanying files, which are saved unchanged."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        config = json.loads(files.get("tokenizer_config.json", b"{}"))
        self._tokenizer = read_tokenizer(files)
        if is_random(files["tokenizer.json"]):
            # Saved without dropout, so that other programs read texts as the model was trained.
            self._files = files | {"tokenizer.json": self._tokenizer.to_str(pretty=True).encode()}
        if not config.get("split_special_tokens", False):
            self._tokenizer = without_last_pad(self._tokenizer, files)
        # Sentence encoders have a maximum length, which would truncate documents.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = config.get("split_special_tokens", False)
        vocabulary = self._tokenizer.get_vocab()
        end = end_of_document(files)
        if end not in vocabulary:
            raise ValueError(f"its eos_token {end} is not in the vocabulary")
        self.vocab_size = max(vocabulary.values()) + 1
        self.end_of_document = vocabulary[end]
        self.mask = vocabulary.get(_named(files, "mask_token") or "")
        self.bos = vocabulary.get(_named(files, "bos_token") or "")
        self.beginning = self._beginning()
        parts = [self._tokenizer.to_str(), self._tokenizer.encode_special_tokens, self.end_of_document]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def added_tokens(self) -> list[str]:
        """The tokens that are found in a text before it is split into words."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    @property
    def words(self) -> dict[int, str]:
        return {number: word for word, number in self._tokenizer.get_vocab().items()}

    def encode(self, text: str) -> np.ndarray:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def encode_blocks(self, text: str) -> Iterator[np.ndarray]:
        return encode_blocks(self._tokenizer, text)

    def spelled(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def num_bytes(self, ids: np.ndarray) -> int:
        added = self._tokenizer.get_added_tokens_decoder()
        decoder = self._tokenizer.decoder
        if decoder is not None and b'"ByteLevel"' in decoder.__getstate__():
            # Every letter of a piece is a byte.
            lengths = {i: 0 if token.special else len(token.content.encode()) for i, token in added.items()}
            pieces = [(int(i), self._tokenizer.id_to_token(int(i)) or "") for i in ids]
            return sum(lengths.get(i, len(piece)) for i, piece in pieces)
        # A byte of a character that is not in the vocabulary decodes to a mark of three bytes if others are missing.
        letter = self._tokenizer.token_to_id("<0x41>")
        is_byte = [_BYTE.fullmatch(self._tokenizer.id_to_token(int(i)) or "") is not None for i in ids]
        return len(self.decode(ids if letter is None else np.where(is_byte, letter, ids)).encode())

    def with_bos(self, add: bool | str) -> Self:
        changed = super().with_bos(add)
        if changed is not self:
            # So that other programs read texts as the model was trained.
            changed._files = with_template(self._files, _named(self._files, "bos_token") if add else None)
        return changed

    def _beginning(self) -> tuple[int, ...]:
        """The tokens that the post-processor puts before every text."""
        encoding = self._tokenizer.encode("a")
        return tuple(encoding.ids[: encoding.special_tokens_mask.index(0)]) if 0 in encoding.special_tokens_mask else ()

    def with_mask(self) -> SubwordTokenizer:
        if self.mask is not None:
            return self
        if not self._tokenizer.encode_special_tokens:
            # A text that spells the added token would change its ids.
            remedy = "use tokenizer=byte or bpe with a fresh model, or the tokenizer of a masked checkpoint"
            raise ConfigError("", "pretrained", "has no mask token", remedy)
        masked = copy.copy(self)
        masked._files = with_mask_token(self._files)
        masked.mask, masked.vocab_size = self.vocab_size, self.vocab_size + 1
        return masked

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


# A conversation as plain text, because no model was trained on special tokens of a tokenizer that is built here.
CHAT_TEMPLATE = """\
{%- for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"""


def build_files(tokenizer: tokenizers.Tokenizer) -> dict[str, bytes]:
    """The files of a tokenizer built here. A text that spells `END_OF_DOCUMENT` does not end the document."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_DOCUMENT,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
    }


def is_random(content: bytes) -> bool:
    """Whether a tokenizer.json encodes equal texts differently (BPE dropout, Provilkov et al. 2020, arXiv:1910.13267)."""
    return bool(getattr(tokenizers.Tokenizer.from_buffer(content).model, "dropout", None))


def read_tokenizer(files: dict[str, bytes]) -> tokenizers.Tokenizer:
    """The tokenizer of the files: with the tokens that only other files than tokenizer.json add, and without dropout.

    Raises `ValueError` if such a token would get another id than its file gives it.
    """
    tokenizer = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    added = _added_elsewhere(files)
    known = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for _, token in sorted(added.items()) if repr(token) not in known])
    for number, token in added.items():
        if (found := tokenizer.token_to_id(token.content)) != number:
            raise ValueError(f"the id of its added token {token.content} is {number} in one file and {found} in tokenizer.json")
    return tokenizer


def without_last_pad(tokenizer: tokenizers.Tokenizer, files: dict[str, bytes]) -> tokenizers.Tokenizer:
    """The tokenizer without its padding token, if that was added after all others: many checkpoints have no embedding for it.

    Nothing is padded here, and a text that spells the token is read as any other text.
    """
    vocabulary, pad = tokenizer.get_vocab(), _named(files, "pad_token")
    has_other_role = pad in {_named(files, f"{role}_token") for role in ("bos", "eos", "unk", "sep", "cls", "mask")}
    if pad not in vocabulary or has_other_role or vocabulary[pad] < max(vocabulary.values()):
        return tokenizer
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != pad]
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _added_elsewhere(files: dict[str, bytes]) -> dict[int, tokenizers.AddedToken]:
    """The tokens that tokenizer_config.json adds or, if it has no such list, added_tokens.json: as transformers reads them."""
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    if "added_tokens_decoder" in config:
        flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        listed = {int(number): {flag: one[flag] for flag in flags if flag in one} for number, one in config["added_tokens_decoder"].items()}
        return {number: tokenizers.AddedToken(**one) for number, one in listed.items()}
    if "added_tokens.json" not in files:
        return {}
    special = {_named(files, f"{role}_token") for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
    in_file = {token["content"] for token in json.loads(files["tokenizer.json"]).get("added_tokens", [])}
    return {
        number: tokenizers.AddedToken(content, normalized=content not in special, special=content in special)
        for content, number in json.loads(files["added_tokens.json"]).items()
        if content not in in_file
    }


def end_of_document(files: dict[str, bytes]) -> str | None:
    """The end-of-text token of the files. Masked models have none; their separator of texts is used."""
    return _named(files, "eos_token") or _named(files, "sep_token")


def special_ids(folder: Path) -> dict[str, int]:
    """The ids of the tokens that the files name: bos_token_id, eos_token_id and pad_token_id, as far as they exist."""
    files = read_files(folder)
    vocabulary = read_tokenizer(files).get_vocab() if "tokenizer.json" in files else {}
    named = {f"{role}_token_id": _named(files, f"{role}_token") for role in ("bos", "eos", "pad")}
    return {role: vocabulary[token] for role, token in named.items() if token in vocabulary}


def with_mask_token(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with a mask token as the last id. No text is encoded to it."""
    tokenizer = read_tokenizer(files)
    tokenizer.add_special_tokens([tokenizers.AddedToken(MASK, normalized=False)])
    config = json.loads(files["tokenizer_config.json"]) | {"mask_token": MASK}
    return files | {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }


def with_template(files: dict[str, bytes], bos: str | None) -> dict[str, bytes]:
    """The files with a post-processor that puts the token, or nothing, before every text."""
    tokenizer = read_tokenizer(files)
    before, known = ([bos], [(bos, tokenizer.token_to_id(bos))]) if bos is not None else ([], [])
    tokenizer.post_processor = TemplateProcessing(single=[*before, "$A"], pair=[*before, "$A", *before, "$B"], special_tokens=known)
    config = json.loads(files.get("tokenizer_config.json", b"{}")) | {"add_bos_token": bos is not None}
    return files | {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }


def without_mask_token(files: dict[str, bytes]) -> dict[str, bytes] | None:
    """Undoes `with_mask_token`. None if the files do not have a mask that it added."""
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    if config.get("mask_token") != MASK or not config.get("split_special_tokens"):
        return None
    content = json.loads(files["tokenizer.json"])
    *others, last = content["added_tokens"] or [{}]
    if last.get("content") != MASK:
        return None
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content | {"added_tokens": others}))
    del config["mask_token"]
    plain = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }
    # A mask that is part of the vocabulary itself cannot be removed.
    return None if MASK in tokenizer.get_vocab() else files | plain


def _named(files: dict[str, bytes], role: str) -> str | None:
    """The token that the files name for a role, such as eos_token."""
    named = json.loads(files.get("special_tokens_map.json", b"{}"))
    named |= json.loads(files.get("tokenizer_config.json", b"{}"))
    token = named.get(role)
    content: str | None = token["content"] if isinstance(token, dict) else token
    return content
