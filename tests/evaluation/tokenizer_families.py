"""Small tokenizers of the families that published models use, trained on text with many numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as TokenizerFile

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.subword import SubwordTokenizer
from elongate.data.tokenizer.tokenizer import Tokenizer

END, UNKNOWN = "<|endoftext|>", "[UNK]"
WORDS = ["the", "a", "key", "pass", "is", "number", "numbers", "of", "value", "are", "let", "be", "commonest", "word", "three", "words"]


@cache
def text() -> tuple[str, ...]:
    draw = random.Random(0)

    def piece() -> str:
        digits = draw.randrange(1, 6)
        syllables = "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3))
        return draw.choice([draw.choice(WORDS), str(draw.randrange(10**digits)), f"{draw.randrange(10**5)}.", syllables])

    return tuple(" ".join(piece() for _ in range(12)) for _ in range(600))


def byte_level(pattern: str | None) -> TokenizerFile:
    """BPE on bytes; text is split by the pattern before it is merged, or not at all."""
    tokenizer = TokenizerFile(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trained = trainers.BpeTrainer(vocab_size=900, special_tokens=[END], initial_alphabet=level.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(text(), trained)
    return tokenizer


def gpt2() -> TokenizerFile:
    return byte_level(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def digits(most: int) -> Callable[[], TokenizerFile]:
    """Like Llama 3 (at most three digits) and others: digits are split from the space before them."""
    return lambda: byte_level(rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{most}}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def superwords() -> TokenizerFile:
    """Tokens that reach over spaces (Liu et al. 2025, arXiv:2503.13423)."""
    return byte_level(None)


def sentencepiece_bpe() -> TokenizerFile:
    """Like Llama 2: a space before every text, single digits, unknown characters as bytes."""
    tokenizer = TokenizerFile(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words, single = pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, single])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokens = ["<unk>", END, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(text(), trainers.BpeTrainer(vocab_size=900, special_tokens=tokens, show_progress=False))
    return without_special_bytes(tokenizer)


def unigram(byte_fallback: bool) -> Callable[[], TokenizerFile]:
    """Like T5 and Gemma: the most likely pieces (Kudo 2018, arXiv:1804.10959)."""

    def build() -> TokenizerFile:
        tokenizer = TokenizerFile(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        tokens = ["<unk>", END, *((f"<0x{byte:02X}>" for byte in range(256)) if byte_fallback else ())]
        trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=tokens, unk_token="<unk>", n_sub_iterations=1, show_progress=False)
        tokenizer.train_from_iterator(text(), trainer)
        content = json.loads(tokenizer.to_str())
        content["model"]["byte_fallback"] = byte_fallback
        return without_special_bytes(TokenizerFile.from_str(json.dumps(content)))

    return build


def wordpiece() -> TokenizerFile:
    """Like BERT: words are split at spaces and punctuation, and their later pieces are marked."""
    tokenizer = TokenizerFile(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=[UNKNOWN, END], show_progress=False)
    tokenizer.train_from_iterator(text(), trainer)
    return tokenizer


def words_only() -> TokenizerFile:
    """A list of words: every number is the same unknown word."""
    tokenizer = TokenizerFile(models.WordLevel({word: i for i, word in enumerate([UNKNOWN, END, *WORDS])}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def without_special_bytes(tokenizer: TokenizerFile) -> TokenizerFile:
    """The trainers take the bytes as special tokens; here they are pieces as others."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    return TokenizerFile.from_str(json.dumps(content))


FAMILIES: dict[str, Callable[[], TokenizerFile] | None] = {
    "byte": None,
    "gpt2": gpt2,
    "one digit": digits(1),
    "three digits": digits(3),
    "four digits": digits(4),
    "superwords": superwords,
    "sentencepiece bpe": sentencepiece_bpe,
    "unigram": unigram(byte_fallback=False),
    "unigram with bytes": unigram(byte_fallback=True),
    "wordpiece": wordpiece,
}


@cache
def tokenizer_of(family: str) -> Tokenizer:
    build = FAMILIES[family]
    return ByteTokenizer() if build is None else opened(build())


def opened(tokenizer: TokenizerFile) -> SubwordTokenizer:
    config = {"eos_token": END, "split_special_tokens": True}
    return SubwordTokenizer({"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()})


def documents() -> Iterator[str]:
    return iter(text())
