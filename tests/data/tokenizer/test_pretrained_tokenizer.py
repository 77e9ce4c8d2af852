"""The tokenizer of a checkpoint reads texts as transformers does, or is refused in one line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.data.tokenizer.conftest import MIXED
from tokenizers import Tokenizer as TokenizerFile
from tokenizers.models import WordPiece

from elongate.data.tokenizer.bpe import Bpe
from elongate.data.tokenizer.byte import Byte
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.pretrained import Pretrained
from elongate.errors import ConfigError


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
