"""A strategy changes what the model computes, and plain transformers computes the same from the exported folder."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.small import LENGTH, SCALINGS, TARGET, TOKENS, VOCAB, attending, gpt, opened, saved, strategy
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from elongate.context.attention.self_extend import SelfExtend
from elongate.context.position.pi import PositionInterpolation
from elongate.context.sampling.sampling import Sampling
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.models.compatibility import check_strategy
from elongate.scoring.left_to_right import LeftToRight
from elongate.training.export import export

FOLLOWING = ["dynamic_ntk", "longrope"]  # their frequencies depend on the length of the text


@pytest.mark.slow
@pytest.mark.parametrize("word", SCALINGS)
def test_plain_transformers_computes_our_logits(word: str, tmp_path: Path) -> None:
    model, chosen = gpt(), strategy(word)
    model.extend(chosen, LENGTH, TARGET)
    export(model, ByteTokenizer(), tmp_path / "model")
    for length in (LENGTH, TARGET):
        # Open it for each length: dynamic NTK remembers the longest text.
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert plain.config.max_position_embeddings == chosen.position.stated_length(LENGTH, TARGET)
        with torch.no_grad():
            ours = model.logits(model.hidden(TOKENS[:, :length]))
            assert_close(plain(TOKENS[:, :length]).logits, ours, rtol=0, atol=1e-5)


def test_plain_transformers_opens_the_exported_tokenizer(tmp_path: Path) -> None:
    export(gpt(), ByteTokenizer(), tmp_path / "model")
    text = "def f(x):\n    return x  # naïve ☕\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(text).input_ids == list(text.encode())


@pytest.mark.parametrize("word", [word for word in SCALINGS if word != "none"])
def test_every_scaling_but_none_changes_the_hidden_states(word: str) -> None:
    model = attending(torch.float32)
    with torch.no_grad():
        before = model.hidden(TOKENS[:, :TARGET])
        model.extend(strategy(word), LENGTH, TARGET)
        assert (model.hidden(TOKENS[:, :TARGET]) - before).abs().max() > 1e-3


@pytest.mark.parametrize("word", SCALINGS)
def test_a_common_shift_of_all_positions_changes_nothing(word: str) -> None:
    model = gpt()
    model.extend(strategy(word), LENGTH, TARGET)
    positions = torch.arange(100)[None].expand(2, -1)
    with torch.no_grad():
        shifted, unshifted = (model.hidden(TOKENS[:, :100], positions + shift) for shift in (27, 0))
    assert_close(shifted, unshifted, rtol=0, atol=2e-5)


def test_up_to_the_original_length_dynamic_ntk_changes_nothing() -> None:
    model = attending()
    with torch.no_grad():
        before = model.hidden(TOKENS[:, :32])
        model.extend(strategy("dynamic_ntk"), LENGTH, TARGET)
        assert torch.equal(model.hidden(TOKENS[:, :32]), before)
        assert not torch.allclose(model.hidden(TOKENS[:, :33])[:, :32], before, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["full", "self_extend"])
@pytest.mark.parametrize("word", FOLLOWING)
def test_earlier_texts_do_not_change_the_hidden_states_of_later_ones(word: str, attention: str) -> None:
    fields = {} if attention == "full" else {"attention": SelfExtend()}
    used = attending()
    used.extend(strategy(word, **fields), LENGTH, TARGET)
    with torch.no_grad():
        for length in (128, 20, 60, 33, 32, 100):
            fresh = attending()
            fresh.extend(strategy(word, **fields), LENGTH, TARGET)
            assert torch.equal(used.hidden(TOKENS[:, :length]), fresh.hidden(TOKENS[:, :length]))


@pytest.mark.parametrize("word", FOLLOWING)
def test_a_saved_length_dependent_model_is_opened_with_the_same_states(word: str, tmp_path: Path) -> None:
    model = attending(torch.float32)
    model.extend(strategy(word), LENGTH, TARGET)
    again = opened(saved(model.network, tmp_path / "extended"))
    # The stated length must not change: dynamic NTK would read it as the trained length.
    again.extend(strategy("none"), LENGTH, TARGET)
    with torch.no_grad():
        for length in (128, 20, 60, 33):
            assert torch.equal(again.hidden(TOKENS[:, :length]), model.hidden(TOKENS[:, :length]))


@pytest.mark.parametrize("word", [*FOLLOWING, "yarn"])
def test_an_answer_after_a_cached_text_is_as_likely_as_in_one_pass(word: str) -> None:
    model = attending()
    model.extend(strategy(word), LENGTH, TARGET)
    # The prefix alone is shorter than the original length, so alone it would be read with other frequencies.
    text, size = TOKENS[:1, :36].numpy(), 6
    totals, _ = LeftToRight().answers(model, text[:, :-size], text[:, None, -size:])
    losses = LeftToRight().losses(model, text, LENGTH)
    assert totals[0, 0] == pytest.approx(-losses[0, -size:].sum(), abs=1e-10)


def test_sampled_positions_are_read_with_the_frequencies_of_the_text_that_they_span() -> None:
    model, plain = attending(), attending()
    chosen = strategy("dynamic_ntk")
    model.extend(replace(chosen, sampling=Halves()), LENGTH, TARGET)
    plain.extend(chosen, LENGTH, TARGET)
    positions = torch.cat([torch.arange(16), torch.arange(112, 128)])[None].expand(2, -1)
    with torch.no_grad():
        sampled = model.hidden(TOKENS[:, :32], positions)
        plain.hidden(TOKENS[:, :128])
        expected = plain.network.base_model(input_ids=TOKENS[:, :32], position_ids=positions).last_hidden_state
        assert_close(sampled, expected, rtol=0, atol=1e-12)
        # Without positions, it is a text of its own length.
        assert torch.equal(model.hidden(TOKENS[:, :32]), plain.hidden(TOKENS[:, :32]))


class Halves(Sampling):
    word = "halves"

    def text_length(self, length: int) -> int:
        raise NotImplementedError

    def draw(self, random: Any, length: int, reach: int) -> Any:
        raise NotImplementedError


def test_without_positions_the_last_token_sees_a_bag_of_tokens() -> None:
    model = attending(num_layers=1)
    order = torch.cat([torch.randperm(99, generator=torch.Generator().manual_seed(0)), torch.tensor([99])])
    with torch.no_grad():
        assert (model.hidden(TOKENS[:, order])[:, -1] - model.hidden(TOKENS[:, :100])[:, -1]).abs().max() > 1e-3
        model.extend(strategy("drope"), LENGTH, TARGET)
        assert_close(model.hidden(TOKENS[:, order])[:, -1], model.hidden(TOKENS[:, :100])[:, -1], rtol=0, atol=1e-12)


def test_documents_with_positions_of_their_own_do_not_see_each_other() -> None:
    model = gpt()
    model.network.double()
    bounds = [0, 1, 40, 77, 129]
    positions = torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(bounds)])[None].expand(2, -1)
    with torch.no_grad():
        alone = torch.cat([model.hidden(TOKENS[:, a:b]) for a, b in itertools.pairwise(bounds)], dim=1)
        assert_close(model.hidden(TOKENS, positions), alone, rtol=0, atol=1e-12)


def test_a_token_does_not_see_later_tokens() -> None:
    model = gpt()
    embedded = model.network.get_input_embeddings()(TOKENS[:1, :20]).detach().requires_grad_()
    state = model.network.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, 9].sum()
    (gradient,) = torch.autograd.grad(state, embedded)
    seen = gradient[0].abs().sum(-1)
    assert (seen[:10] > 0).all()
    assert (seen[10:] == 0).all()


def test_a_scaling_that_is_not_active_is_detected() -> None:
    class Broken(PositionInterpolation):
        def rope_parameters(self, rotary: Any, factor: float) -> dict[str, Any]:
            return {"rope_type": "default", "rope_theta": rotary.theta}

    with pytest.raises(AssertionError, match="pi is not active: frequencies differ by"):
        gpt().extend(strategy("none", position=Broken()), LENGTH, TARGET)


def test_a_strategy_that_is_set_again_starts_from_the_trained_positions() -> None:
    once, twice = gpt(), gpt()
    twice.extend(strategy("ntk"), LENGTH, 64)
    assert once.extend(strategy("ntk"), LENGTH, TARGET) == twice.extend(strategy("ntk"), LENGTH, TARGET)


def test_a_scaling_and_texts_beyond_the_table_are_refused_on_learned_positions(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    gpt2 = opened(saved(GPT2LMHeadModel(config), tmp_path / "gpt2"))
    message = "context/position=yarn: needs rotary positions, which model=pretrained does not have; use .*=interpolate"
    with pytest.raises(ConfigError, match=message):
        check_strategy(gpt2, strategy("yarn", target_length=256), 64)
    message = r"context/position=none: needs positions that are computed .*; use .* context\.target_length=64"
    with pytest.raises(ConfigError, match=message):
        check_strategy(gpt2, strategy("none", target_length=256), 64)
    check_strategy(gpt2, strategy("none", target_length=64), 64)


def test_without_a_scaling_a_checkpoint_that_was_extended_before_stays_as_it_is(tmp_path: Path) -> None:
    model = gpt()
    model.extend(strategy("yarn"), LENGTH, TARGET)
    extended = opened(saved(model.network, tmp_path / "extended"))
    again = strategy("none", target_length=256)
    check_strategy(extended, again, TARGET)
    assert extended.extend(again, TARGET, 256)["rope_parameters"]["rope_type"] == "yarn"


def test_a_scaling_acts_on_the_layers_that_see_the_whole_sequence(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    local = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "num_key_value_heads": 1}
    network = Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=VOCAB, **shape, **local))
    gemma = opened(saved(network, tmp_path / "gemma"))
    buffers = dict(gemma.network.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items() if name.endswith("_attention_inv_freq")}
    gemma.extend(strategy("pi"), LENGTH, TARGET)
    for name, buffer in gemma.network.named_buffers():
        if name in before:
            assert_close(buffer, before[name] / (4 if "full" in name else 1))
    export(gemma, ByteTokenizer(), tmp_path / "model")
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(TOKENS[:, :TARGET]).logits
        assert_close(theirs, gemma.logits(gemma.hidden(TOKENS[:, :TARGET])), rtol=0, atol=1e-5)
