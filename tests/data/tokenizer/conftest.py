"""Texts, fitted tokenizers and a checkpoint of a BERT-like tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer as TokenizerFile

from elongate.data.text import Text
from elongate.data.tokenizer.bpe import Bpe
from elongate.data.tokenizer.byte import Byte
from elongate.data.tokenizer.tokenizer import Tokenizer

MIXED = [
    "def f(x):\n\treturn x  # naïve café",
    "  two leading, two trailing  ",
    "日本語 और हिन्दी — Ελληνικά 😀👩‍👩‍👧",
    "\x00\x01\x7f\u200b\ufeff\r\n\n\n",
    "a document that spells <|endoftext|> does not end",
    "",
]


@pytest.fixture
def source(tmp_path) -> Text:
    (tmp_path / "books").mkdir()
    for index in range(12):
        words = " ".join(f"word{index * number % 37} of naïve café" for number in range(200))
        (tmp_path / "books" / f"{index}.txt").write_text(words, encoding="utf-8")
    return Text(path=str(tmp_path / "books"), cache=str(tmp_path / "cache"))


@pytest.fixture(params=[Byte(), Bpe(vocab_size=300)], ids=["byte", "bpe"])
def tokenizer(request, source) -> Tokenizer:
    return request.param.fit(source)


@dataclass
class Checkpoint:
    folder: Path

    def write(self, name: str, content: dict) -> None:
        (self.folder / name).write_text(json.dumps(content))


@pytest.fixture
def checkpoint(tmp_path, source) -> Checkpoint:
    """A BERT-like tokenizer: special tokens around each text, a maximum length, no end of text."""
    from tokenizers import models, pre_tokenizers, processors

    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "word1": 3, "of": 4}
    tokenizer = TokenizerFile(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    checkpoint = Checkpoint(folder)
    checkpoint.write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "sep_token": "[SEP]"})
    return checkpoint
