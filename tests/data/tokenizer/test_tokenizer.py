"""Tokenizers agree with transformers, which opens their files, and are unchanged after saving and loading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as TokenizerFile
from tokenizers.models import WordPiece

from elongate.data.source import PIECE, pieces
from elongate.data.text import Text
from elongate.data.tokenizer.bpe import Bpe
from elongate.data.tokenizer.byte import Byte, ByteTokenizer
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.pretrained import Pretrained
from elongate.data.tokenizer.tokenizer import Tokenizer, fit_tokenizer
from elongate.errors import ConfigError

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


@pytest.mark.slow
@pytest.mark.parametrize("with_model_config", [False, True], ids=["alone", "with a Llama"])
def test_transformers_opens_the_same_tokenizer(tokenizer, tmp_path, with_model_config):
    import transformers

    folder = tmp_path / "model"
    tokenizer.save(folder)
    if with_model_config:
        transformers.LlamaConfig(vocab_size=tokenizer.vocab_size).save_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in MIXED:
        assert theirs(text)["input_ids"] == tokenizer.encode(text).tolist()
    assert theirs.eos_token_id == tokenizer.end_of_document
    assert len(theirs) == tokenizer.vocab_size


def test_decoding_restores_the_text(tokenizer):
    for text, ids in zip(MIXED, tokenizer.encode_batch(MIXED), strict=True):
        assert ids.dtype == np.int64
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(np.append(ids, tokenizer.end_of_document)) == text
        assert tokenizer.end_of_document not in ids


def test_a_loaded_tokenizer_has_the_fingerprint_of_the_saved_one(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert type(loaded) is type(tokenizer)
    assert (loaded.fingerprint, loaded.vocab_size) == (tokenizer.fingerprint, tokenizer.vocab_size)
    assert loaded.encode(MIXED[0]).tolist() == tokenizer.encode(MIXED[0]).tolist()


def test_bytes_are_their_own_ids():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé").tolist() == list("aé".encode())
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (257, 256)


def test_bpe_learns_from_the_train_split_only(source):
    held_out = [document for document in source.documents() if document.text not in set(source.train_texts())]
    assert held_out
    before = Bpe(vocab_size=300).fit(source).fingerprint
    for document in held_out:
        Path(source.path, document.name).write_text("zq" * 3000)
    assert Bpe(vocab_size=300).fit(source).fingerprint == before


def test_bpe_merges_and_has_the_requested_number_of_tokens(source):
    tokenizer = Bpe(vocab_size=300).fit(source)
    assert tokenizer.vocab_size == 300
    text = next(source.documents()).text
    assert len(tokenizer.encode(text)) < 0.7 * len(text.encode())
    with pytest.raises(ConfigError, match="vocab_size=256: must be at least 257"):
        Bpe(vocab_size=256)


@pytest.mark.slow
def test_bpe_encodes_pieces_like_the_whole_text(source):
    tokenizer = Bpe(vocab_size=300).fit(source)
    text = "word1 of café,\n\n\tnaïve  \n  word2.\nof word3\n" * (PIECE // 20)
    cut = list(pieces(text))
    assert len(cut) > 1
    assert np.concatenate(tokenizer.encode_batch(cut)).tolist() == tokenizer.encode(text).tolist()


TRAIN = """
import sys
from elongate.data.text import Text
from elongate.data.tokenizer.bpe import Bpe
print(Bpe(vocab_size=400).fit(Text(path=sys.argv[1], cache=sys.argv[2])).fingerprint)
print([name for name in ("torch", "transformers", "datasets") if name in sys.modules])
"""


def test_bpe_training_is_reproducible_across_processes(source, tmp_path):
    def fingerprint(threads: str, hash_seed: str) -> str:
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", TRAIN, source.path, str(tmp_path / threads)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    one, other = fingerprint("1", "1"), fingerprint("2", "2")
    assert one == other
    assert one.splitlines()[1] == "[]"  # neither torch nor transformers is needed


@dataclass
class Checkpoint:
    folder: Path

    def write(self, name: str, content: dict) -> None:
        (self.folder / name).write_text(json.dumps(content))


@pytest.fixture
def checkpoint(tmp_path, source) -> Checkpoint:
    """A BERT-like tokenizer: special tokens around each text, a maximum length, no end of text."""
    from tokenizers import Tokenizer as TokenizerFile
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


def test_pretrained_encodes_whole_texts_without_special_tokens(checkpoint, source):
    tokenizer = Pretrained(source=str(checkpoint.folder)).fit(source)
    assert tokenizer.encode("word1 of word1 of word1 nothing").tolist() == [3, 4, 3, 4, 3, 0]
    assert tokenizer.encode("of").tolist() == [4]
    assert (tokenizer.end_of_document, tokenizer.vocab_size) == (2, 5)


def test_pretrained_saves_the_files_of_the_checkpoint_unchanged(checkpoint, source, tmp_path):
    (checkpoint.folder / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = Pretrained(source=str(checkpoint.folder)).fit(source)
    tokenizer.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


def test_pretrained_uses_transformers_if_the_class_knows_more_than_the_files(source, tmp_path):
    import transformers

    folder = tmp_path / "gpt2"
    Bpe(vocab_size=300).fit(source).save(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        if name == "tokenizer.json":
            (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
            merges = "".join(f"{' '.join(merge)}\n" for merge in content["model"]["merges"])
            (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
        (folder / name).unlink()
    transformers.GPT2Config().save_pretrained(folder)
    tokenizer = Pretrained(source=str(folder)).fit(source)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.end_of_document == theirs.eos_token_id
    assert tokenizer.encode(MIXED[0]).tolist() == theirs(MIXED[0])["input_ids"]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (None, "is required"),
        ("./missing", "no such folder"),
        ("/missing/folder", "no such folder"),
        ("owner/name", "no such folder here, and the hub cannot be reached"),
    ],
)
def test_a_missing_checkpoint_is_reported_in_one_line(source, monkeypatch, settings, rule):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        Pretrained(source=settings).fit(source)
    assert caught.value.key == "source"
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("tokenizer.json", "{", "broken"),
        ("tokenizer.json", "{}", "broken"),
        ("tokenizer_config.json", "{", "broken"),
        ("tokenizer_config.json", '{"tokenizer_class": "PreTrainedTokenizerFast"}', "has no eos_token"),
        ("tokenizer_config.json", '{"eos_token": "</s>"}', "its eos_token </s> is not in the vocabulary"),
    ],
)
def test_broken_tokenizer_files_are_reported_in_one_line(checkpoint, name, content, rule):
    (checkpoint.folder / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(checkpoint.folder)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_encode_every_text_is_refused_in_one_line(tmp_path):
    tokenizer = TokenizerFile(WordPiece({"a": 0, "</s>": 1}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(ConfigError, match=r"its tokenizer files are broken \(WordPiece error: Missing \[UNK\] token"):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_files_is_named(tmp_path):
    with pytest.raises(ConfigError, match="contains no tokenizer"):
        load_tokenizer(tmp_path)


# -- the mask ----------------------------------------------------------------------------------------------------


def test_a_mask_is_an_additional_token_that_no_text_is_encoded_to(tokenizer):
    masked = tokenizer.with_mask()
    assert tokenizer.mask is None
    assert (masked.mask, masked.vocab_size) == (tokenizer.vocab_size, tokenizer.vocab_size + 1)
    for text in [*MIXED, "a text that spells [MASK] has no mask"]:
        assert masked.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert masked.decode([*masked.encode("as it was"), masked.mask]) == "as it was"
    # The fingerprint names the cache of tokens, which are the same.
    assert masked.fingerprint == tokenizer.fingerprint
    assert masked.with_mask() is masked


def test_transformers_finds_the_mask(tokenizer, tmp_path):
    import transformers

    masked = tokenizer.with_mask()
    masked.save(tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (theirs.mask_token, theirs.mask_token_id, len(theirs)) == ("[MASK]", masked.mask, masked.vocab_size)
    for text in MIXED:
        assert theirs(text)["input_ids"] == tokenizer.encode(text).tolist()


def test_a_loaded_tokenizer_has_the_mask_of_the_saved_one(tokenizer, tmp_path):
    masked = tokenizer.with_mask()
    masked.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert type(loaded) is type(tokenizer)
    assert (loaded.fingerprint, loaded.vocab_size, loaded.mask) == (masked.fingerprint, masked.vocab_size, masked.mask)
    loaded.save(tmp_path / "again")
    for file in (tmp_path / "saved").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_a_fitted_tokenizer_has_a_mask_if_the_objective_needs_one(source):
    assert fit_tokenizer(Byte(), source, needs_mask=False).mask is None
    assert fit_tokenizer(Byte(), source, needs_mask=True).mask == 257
    with pytest.raises(ConfigError, match=r"^tokenizer\.source=null: is required; use tokenizer\.source=<hub id or folder>$"):
        fit_tokenizer(Pretrained(), source, needs_mask=False)


def test_the_mask_of_a_checkpoint_is_used(checkpoint, source):
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "sep_token": "[SEP]", "mask_token": {"content": "of"}}
    checkpoint.write("tokenizer_config.json", config)
    tokenizer = Pretrained(source=str(checkpoint.folder)).fit(source)
    assert (tokenizer.mask, tokenizer.vocab_size) == (4, 5)
    assert tokenizer.with_mask() is tokenizer


def test_a_checkpoint_without_a_mask_is_refused_in_one_line(checkpoint, source):
    with pytest.raises(ConfigError) as caught:
        Pretrained(source=str(checkpoint.folder)).fit(source).with_mask()
    message = str(caught.value.inside("tokenizer"))
    assert message.startswith("tokenizer=pretrained: has no mask token; use tokenizer=byte or bpe with a fresh model")
    assert "\n" not in message


# -- agreement with transformers ---------------------------------------------------------------------------------


def with_file(folder: Path, name: str, change: dict) -> None:
    file = folder / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | change))


THINK = {"content": "<think>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize("fit", [Byte(), Bpe(vocab_size=300)], ids=["byte", "bpe"])
def test_tokens_that_only_another_file_adds_are_not_split(source, tmp_path, fit, name):
    import transformers

    fitted = fit.fit(source)
    fitted.save(tmp_path / "model")
    added = {"added_tokens_decoder": {str(fitted.vocab_size): THINK}} if name == "tokenizer_config.json" else {"<think>": fitted.vocab_size}
    with_file(tmp_path / "model", "tokenizer_config.json", {"split_special_tokens": False})
    with_file(tmp_path / "model", name, added)
    tokenizer = Pretrained(source=str(tmp_path / "model")).fit(source)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in ("hi <think>x", "<think>", "two <think> <think>"):
        assert fitted.vocab_size in tokenizer.encode(text)
        assert tokenizer.encode(text).tolist() == theirs(text)["input_ids"]
    assert tokenizer.vocab_size == len(theirs) == fitted.vocab_size + 1
    tokenizer.save(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("hi <think>x")["input_ids"] == tokenizer.encode("hi <think>x").tolist()


def test_an_added_token_with_two_ids_is_refused_in_one_line(source, tmp_path):
    Bpe(vocab_size=300).fit(source).save(tmp_path / "model")
    with_file(tmp_path / "model", "tokenizer_config.json", {"added_tokens_decoder": {"310": THINK}})
    with pytest.raises(ConfigError, match=r"the id of its added token <think> is 310 in one file and 300 in tokenizer\.json"):
        load_tokenizer(tmp_path / "model")


def test_dropout_is_switched_off(source, tmp_path):
    import transformers

    Bpe(vocab_size=300).fit(source).save(tmp_path / "model")
    expected = load_tokenizer(tmp_path / "model").encode("word1 of naïve café" * 20).tolist()
    content = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Pretrained(source=str(tmp_path / "model")).fit(source)
    assert tokenizer.encode("word1 of naïve café" * 20).tolist() == expected
    tokenizer.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("word1 of naïve café" * 20)["input_ids"] == expected


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused_in_one_line(source, tmp_path):
    """The class of GPT-2's tokenizer has no normalizer, even if tokenizer.json has one."""
    Bpe(vocab_size=300).fit(source).save(tmp_path / "model")
    with_file(tmp_path / "model", "tokenizer.json", {"normalizer": {"type": "Lowercase"}})
    with_file(tmp_path / "model", "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    with pytest.raises(ConfigError) as caught:
        Pretrained(source=str(tmp_path / "model")).fit(source)
    assert "gives other tokens than transformers.AutoTokenizer for 'A naïve test" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_beginning_of_texts_is_that_of_transformers(checkpoint, source):
    """A BERT-like tokenizer begins every text with [CLS], which no file names as BOS."""
    tokenizer = Pretrained(source=str(checkpoint.folder)).fit(source)
    assert tokenizer.begin(tokenizer.encode("of word1")).tolist() == [1, 4, 3]
    assert tokenizer.with_bos(False).begin(tokenizer.encode("of")).tolist() == [4]
