"""Tokenizers agree with transformers, which opens their files, and are unchanged after saving and loading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.data.tokenizer.conftest import MIXED

from elongate.data.source import PIECE, pieces
from elongate.data.tokenizer.bpe import Bpe
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.errors import ConfigError


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


@pytest.mark.slow
def test_bpe_training_is_reproducible_across_processes(source, tmp_path):
    def fingerprint(threads: str, hash_seed: str) -> str:
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", TRAIN, source.path, str(tmp_path / threads)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    one, other = fingerprint("1", "1"), fingerprint("2", "2")
    assert one == other
    assert one.splitlines()[1] == "[]"  # neither torch nor transformers is needed
