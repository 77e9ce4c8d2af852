"""Greedy decoding compared with transformers' own, and with whole texts read for every token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.models.autoencoders import BLOCK, autoencoder
from tests.models.autoencoders import VOCAB as AUTOENCODER_VOCAB
from tests.networks import VOCAB, network

from elongate.context.attention.self_extend import SelfExtend
from elongate.context.attention.sinks import Sinks
from elongate.context.attention.window import Window
from elongate.errors import ConfigError
from elongate.models.language_model import LanguageModel
from elongate.scoring.fill_in import FillIn
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.segmentwise import Segmentwise

ATTENTIONS = [Window(window_length=6), Sinks(window_length=4, num_sinks=2), SelfExtend(window_length=6)]
PREFIXES = np.random.default_rng(0).integers(VOCAB, size=(3, 20))


def never(written: np.ndarray) -> bool:
    return False


def built(kind: str) -> LanguageModel:
    model = LanguageModel(network(kind).eval(), kind)
    model.network.set_attn_implementation("elongate")
    return model


def token_by_token(model: LanguageModel, prefix: np.ndarray, count: int) -> list[int]:
    """Append the most likely token after the whole text, `count` times."""
    text = prefix.tolist()
    for _ in range(count):
        with torch.no_grad():
            states = model.hidden(torch.tensor([text]))
            text.append(int(model.logits(states[0, -1]).argmax()))
    return text[len(prefix) :]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama-2", "gpt2", "gpt_neox", "mistral", "gemma3"])
def test_a_continuation_is_what_transformers_generates(kind: str) -> None:
    written = LeftToRight().continuation(built(kind), PREFIXES, 12, never)
    ids = torch.from_numpy(PREFIXES)
    expected = network(kind).eval().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
    np.testing.assert_array_equal(np.stack(written), expected[:, 20:].numpy())
    assert len({tuple(row) for row in expected[:, 20:].tolist()}) == 3  # the rows differ


@pytest.mark.slow
@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda attention: attention.word)
def test_with_attention_in_regions_every_token_follows_from_the_whole_text(attention: Any) -> None:
    model = built("llama-2")
    plain = LeftToRight().continuation(model, PREFIXES, 6, never)
    model.attend(attention, 16, 64)
    written = LeftToRight().continuation(model, PREFIXES, 6, never)
    np.testing.assert_array_equal(np.stack(written), [token_by_token(model, prefix, 6) for prefix in PREFIXES])
    assert not np.array_equal(np.stack(written), np.stack(plain))  # the attention makes a difference


def test_each_row_ends_at_its_stop_token_without_changing_the_others() -> None:
    model = built("llama-2")
    whole = np.stack(LeftToRight().continuation(model, PREFIXES, 12, never))
    last = int(whole[0, 3])
    written = LeftToRight().continuation(model, PREFIXES, 12, lambda tokens: tokens[-1] == last)
    for row, everything in zip(written, whole.tolist(), strict=True):
        assert row.tolist() == everything[: everything.index(last) + 1 if last in everything else 12]
    assert len(written[0]) <= 4


def test_nothing_is_written_beyond_the_table_of_positions() -> None:
    model = built("gpt2")
    assert LeftToRight().continuation(model, PREFIXES, 45, never) is not None  # 64 positions: the last token is not read
    assert LeftToRight().continuation(model, PREFIXES, 46, never) is None


def test_an_autoencoder_encodes_whole_segments_of_what_it_wrote() -> None:
    model = autoencoder()
    model.network.eval()
    prefix = np.random.default_rng(0).integers(AUTOENCODER_VOCAB, size=(2, 2 * BLOCK + 1))
    segment = 2 * BLOCK  # half of the original length
    written = np.stack(Segmentwise(None).continuation(model, prefix, 12, never))
    text = torch.from_numpy(prefix)
    for _ in range(12):
        # 8 tokens are encoded while the text is shorter than 16 tokens, then 16.
        encoded = 2 * BLOCK if text.shape[1] < 2 * BLOCK + segment else 2 * BLOCK + segment
        with torch.no_grad():
            states = model.network.base_model(text[:, encoded - 1 :], text[:, :encoded]).last_hidden_state
            best = model.logits(states[:, -1]).argmax(-1, keepdim=True)
        text = torch.cat([text, best], dim=1)
    np.testing.assert_array_equal(written, text[:, prefix.shape[1] :].numpy())


def test_an_autoencoder_writes_the_answer_that_it_calls_written() -> None:
    model = autoencoder()
    model.network.eval()
    prefix = np.random.default_rng(1).integers(AUTOENCODER_VOCAB, size=(2, 2 * BLOCK + 1))
    written = np.stack(Segmentwise(None).continuation(model, prefix, 5, never))
    assert Segmentwise(None).answers(model, prefix, written[:, None])[1].all()


def test_a_causal_model_writes_the_answer_that_it_calls_written() -> None:
    model = built("llama-2")
    written = np.stack(LeftToRight().continuation(model, PREFIXES, 5, never))
    wrong = written.copy()
    wrong[:, -1] = (wrong[:, -1] + 1) % VOCAB
    exact = LeftToRight().answers(model, PREFIXES, np.stack([written, wrong], axis=1))[1]
    np.testing.assert_array_equal(exact, [[True, False]] * 3)


def test_a_masked_model_cannot_write() -> None:
    with pytest.raises(ConfigError, match="predicts hidden tokens and cannot write text; use a causal model, or an autoencoder"):
        FillIn(0.15).continuation(built("bert"), PREFIXES, 5, never)
