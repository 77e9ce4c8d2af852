"""One token per byte of UTF-8: ids 0 to 255 are the bytes, 256 ends a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as TokenizerFile

from elongate.data.source import Source
from elongate.data.tokenizer.blocks import WINDOW
from elongate.data.tokenizer.subword import END_OF_DOCUMENT, SubwordTokenizer, build_files
from elongate.data.tokenizer.tokenizer import Tokenizer


@dataclass(kw_only=True)
class Byte:
    """The byte tokenizer. It has no settings and needs no training."""

    def fit(self, source: Source) -> Tokenizer:
        return ByteTokenizer()


class ByteTokenizer(SubwordTokenizer):
    """Encodes bytes directly, which is a hundred times faster than the BPE without merges in its files."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        super().__init__(build_files(_byte_level_model()) if files is None else files)

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def encode_blocks(self, text: str) -> Iterator[np.ndarray]:
        for start in range(0, len(text), WINDOW):
            yield self.encode(text[start : start + WINDOW])

    def num_bytes(self, ids: np.ndarray) -> int:
        return int((np.asarray(ids) < 256).sum())

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids = np.asarray(ids)
        return ids[ids < 256].astype(np.uint8).tobytes().decode("utf-8", errors="replace")


def _byte_level_model() -> TokenizerFile:
    # GPT-2's alphabet: a byte is written as its own character if that is visible, else as the next unused one.
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    spare = iter(sorted(character for character in alphabet if ord(character) > 255))
    vocabulary = {chr(byte) if chr(byte) in alphabet else next(spare): byte for byte in range(256)}
    tokenizer = TokenizerFile(models.BPE(vocab=vocabulary | {END_OF_DOCUMENT: 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_DOCUMENT, normalized=False)])
    return tokenizer
