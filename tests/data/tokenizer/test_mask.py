"""The token of masked models: additional, found by transformers, and never part of a text."""

from __future__ import annotations

import pytest
from tests.data.tokenizer.conftest import MIXED

from elongate.data.tokenizer.byte import Byte
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.pretrained import Pretrained
from elongate.data.tokenizer.tokenizer import fit_tokenizer
from elongate.errors import ConfigError


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
