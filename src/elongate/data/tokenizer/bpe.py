"""Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019, GPT-2)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as TokenizerFile
from tokenizers import decoders, models, pre_tokenizers, trainers

from elongate.data.cache import cached_folder
from elongate.data.source import Source
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.subword import END_OF_DOCUMENT, build_files
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import require

FORMAT = 2  # raise it whenever the same documents give another tokenizer


@dataclass(kw_only=True)
class Bpe:
    """A BPE trained on the train split and stored in the cache of the source."""

    vocab_size: int = 4096  # at least 257: the bytes and the end of a document; a short text gives fewer

    def __post_init__(self) -> None:
        rule = "must be at least 257 (256 bytes, 1 end of document)"
        require(self.vocab_size >= 257, "vocab_size", self.vocab_size, rule, "use {key}=4096")

    def fit(self, source: Source) -> Tokenizer:
        parts = [FORMAT, source.fingerprint(), source.validation_ratio, self.vocab_size]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        folder = Path(source.cache) / "tokenizers" / key
        return load_tokenizer(cached_folder(folder, lambda folder: self._train(source, folder)))

    def _train(self, source: Source, folder: Path) -> None:
        tokenizer = TokenizerFile(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_DOCUMENT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(source.train_texts(), trainer)
        for name, content in build_files(tokenizer).items():
            (folder / name).write_bytes(content)
