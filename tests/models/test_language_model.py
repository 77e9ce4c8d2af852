"""What leaves the program is what was trained: plain transformers opens it and computes the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.position.pi import PositionInterpolation
from elongate.context.position.scaling import Scaling
from elongate.context.sampling.sampling import Sampling
from elongate.errors import ConfigError
from elongate.models.compatibility import check_head, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.scoring.left_to_right import LeftToRight
from elongate.training.origin import export

WORDS = [path.stem for path in sorted((conf_directory() / "context/position").glob("*.yaml"))]
WORDS = [word for word in WORDS if isinstance(build(OmegaConf.load(conf_directory() / f"context/position/{word}.yaml"), ""), Scaling)]
FOLLOWING = ["dynamic_ntk", "longrope"]  # their frequencies depend on the length of the text
TOKENS = torch.randint(257, (2, 129), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("word", WORDS)
def test_plain_transformers_computes_our_logits_at_the_original_and_the_target_length(
    word: str, build_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    job = build_tiny(f"context={word}")
    model = job.model.build(257, seed=0)
    model.extend(job.strategy, 32, 128)
    export(model, job.tokenizer.fit(job.data), tmp_path / "model")

    for length in (32, 128):
        # Anew for each length: dynamic NTK remembers the longest.
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert opened.config.max_position_embeddings == job.strategy.position.stated_length(32, 128)
        with torch.no_grad():
            ours = torch.nn.functional.linear(model.hidden(TOKENS[:, :length]), *model.head)
            assert_close(opened(TOKENS[:, :length]).logits, ours, rtol=0, atol=1e-5)
    text = "def f(x):\n    return x  # naïve ☕\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(text).input_ids == list(text.encode())


@pytest.mark.parametrize("word", [w for w in WORDS if w != "none"])
def test_every_strategy_but_none_changes_what_the_model_computes(word: str, build_tiny: Callable[..., Any]) -> None:
    job = build_tiny(f"context={word}")
    model = job.model.build(257, seed=0)
    # Fresh weights hardly attend to anything; these do.
    for name, p in model.network.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.hidden(TOKENS[:, :128])
        model.extend(job.strategy, 32, 128)
        assert (model.hidden(TOKENS[:, :128]) - before).abs().max() > 1e-3


@pytest.mark.parametrize("word", WORDS)
def test_a_common_shift_of_all_positions_changes_nothing(word: str, build_tiny: Callable[..., Any]) -> None:
    job = build_tiny(f"context={word}")
    model = job.model.build(257, seed=0)
    model.extend(job.strategy, 32, 128)
    positions = torch.arange(100)[None].expand(2, -1)
    with torch.no_grad():
        assert_close(model.hidden(TOKENS[:, :100], positions + 27), model.hidden(TOKENS[:, :100], positions), rtol=0, atol=2e-5)


def attending(job: Any, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """Fresh weights hardly attend to anything; these do."""
    model = job.model.build(257, seed=0)
    for name, p in model.network.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(0))
    model.network.to(dtype)
    return model


def test_up_to_the_original_length_dynamic_ntk_changes_nothing(build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("context=dynamic_ntk")
    model = attending(job)
    with torch.no_grad():
        before = model.hidden(TOKENS[:, :32])
        model.extend(job.strategy, 32, 128)
        assert torch.equal(model.hidden(TOKENS[:, :32]), before)
        assert not torch.allclose(model.hidden(TOKENS[:, :33])[:, :32], before, atol=1e-3)


@pytest.mark.parametrize("attention", ["full", "self_extend"])
@pytest.mark.parametrize("word", FOLLOWING)
def test_nothing_that_was_read_before_changes_what_is_read(word: str, attention: str, build_tiny: Callable[..., Any]) -> None:
    job = build_tiny(f"context={word}", f"context/attention={attention}")
    used = attending(job)
    used.extend(job.strategy, 32, 128)
    with torch.no_grad():
        for length in (128, 20, 60, 33, 32, 100):
            fresh = attending(job)
            fresh.extend(job.strategy, 32, 128)
            assert torch.equal(used.hidden(TOKENS[:, :length]), fresh.hidden(TOKENS[:, :length]))


@pytest.mark.parametrize("word", FOLLOWING)
def test_a_checkpoint_that_follows_the_text_is_read_like_the_model_that_was_saved(
    word: str, build_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    job = build_tiny(f"context={word}")
    model = attending(job, torch.float32)
    model.extend(job.strategy, 32, 128)
    again = opened(saved(model.network, tmp_path / "extended"))
    # Left as it is; were it to state another length, dynamic NTK would take that for the trained one.
    again.extend(build_tiny("context=none").strategy, 32, 128)
    with torch.no_grad():
        for length in (128, 20, 60, 33):
            assert torch.equal(again.hidden(TOKENS[:, :length]), model.hidden(TOKENS[:, :length]))


@pytest.mark.parametrize("word", [*FOLLOWING, "yarn"])
def test_an_answer_after_a_cached_text_is_as_likely_as_in_one_piece(word: str, build_tiny: Callable[..., Any]) -> None:
    job = build_tiny(f"context={word}")
    model = attending(job)
    model.extend(job.strategy, 32, 128)
    # The prefix alone would be read with the short frequencies.
    text, size = TOKENS[:1, :36].numpy(), 6
    totals, _ = LeftToRight().answers(model, text[:, :-size], text[:, None, -size:])
    losses = LeftToRight().losses(model, text, 32)
    assert totals[0, 0] == pytest.approx(-losses[0, -size:].sum(), abs=1e-10)


def test_sampled_positions_are_read_as_the_text_that_they_reach_to(build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("context=dynamic_ntk")
    model, plain = attending(job), attending(job)
    model.extend(replace(job.strategy, sampling=Halves()), 32, 128)
    plain.extend(job.strategy, 32, 128)
    positions = torch.cat([torch.arange(16), torch.arange(112, 128)])[None].expand(2, -1)
    with torch.no_grad():
        sampled = model.hidden(TOKENS[:, :32], positions)
        plain.hidden(TOKENS[:, :128])
        expected = plain.network.base_model(input_ids=TOKENS[:, :32], position_ids=positions).last_hidden_state
        assert_close(sampled, expected, rtol=0, atol=1e-12)
        # Measured, it is a text of its own length.
        assert torch.equal(model.hidden(TOKENS[:, :32]), plain.hidden(TOKENS[:, :32]))


class Halves(Sampling):
    word = "halves"

    def text_length(self, length: int) -> int:
        raise NotImplementedError

    def draw(self, random: Any, length: int, reach: int) -> Any:
        raise NotImplementedError


def test_without_positions_the_last_token_sees_a_bag_of_tokens(build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("context=drope", "model.num_layers=1")
    model = attending(job)
    order = torch.cat([torch.randperm(99, generator=torch.Generator().manual_seed(0)), torch.tensor([99])])
    with torch.no_grad():
        assert (model.hidden(TOKENS[:, order])[:, -1] - model.hidden(TOKENS[:, :100])[:, -1]).abs().max() > 1e-3
        model.extend(job.strategy, 32, 128)
        assert_close(model.hidden(TOKENS[:, order])[:, -1], model.hidden(TOKENS[:, :100])[:, -1], rtol=0, atol=1e-12)


def test_documents_with_positions_of_their_own_do_not_see_each_other(build_tiny: Callable[..., Any]) -> None:
    model = build_tiny().model.build(257, seed=0)
    model.network.double()
    bounds = [0, 1, 40, 77, 129]
    positions = torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(bounds)])[None].expand(2, -1)
    with torch.no_grad():
        alone = torch.cat([model.hidden(TOKENS[:, a:b]) for a, b in itertools.pairwise(bounds)], dim=1)
        assert_close(model.hidden(TOKENS, positions), alone, rtol=0, atol=1e-12)


def test_the_future_is_not_seen(build_tiny: Callable[..., Any]) -> None:
    model = build_tiny().model.build(257, seed=0)
    embedded = model.network.get_input_embeddings()(TOKENS[:1, :20]).detach().requires_grad_()
    state = model.network.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, 9].sum()
    (gradient,) = torch.autograd.grad(state, embedded)
    reached = gradient[0].abs().sum(-1)
    assert (reached[:10] > 0).all()
    assert (reached[10:] == 0).all()


def test_a_strategy_that_is_not_on_is_found_out(build_tiny: Callable[..., Any]) -> None:
    class Broken(PositionInterpolation):
        def rope_parameters(self, rotary: Any, factor: float) -> dict[str, Any]:
            return {"rope_type": "default", "rope_theta": rotary.theta}

    job = build_tiny()
    model = job.model.build(257, seed=0)
    with pytest.raises(AssertionError, match="pi is not active: frequencies differ by"):
        model.extend(replace(job.strategy, position=Broken()), 32, 128)


def test_the_same_strategy_set_for_another_length_starts_from_the_trained_positions(build_tiny: Callable[..., Any]) -> None:
    job = build_tiny("context=ntk")
    once, twice = (job.model.build(257, seed=0) for _ in range(2))
    twice.extend(job.strategy, 32, 64)
    assert once.extend(job.strategy, 32, 128) == twice.extend(job.strategy, 32, 128)


def saved(network: Any, folder: Path) -> Pretrained:
    network.save_pretrained(folder)
    return Pretrained(source=str(folder))


def opened(model: Pretrained) -> LanguageModel:
    return model.build(257, seed=0)


@pytest.fixture
def gpt2(tmp_path: Path) -> LanguageModel:
    return opened(saved(GPT2LMHeadModel(GPT2Config(vocab_size=257, n_positions=64, n_embd=32, n_layer=1, n_head=2)), tmp_path / "gpt2"))


def test_a_rotary_strategy_on_learned_positions_is_refused(gpt2: LanguageModel, build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(
        ConfigError,
        match="context/position=yarn: needs rotary positions, which model=pretrained does not have; use context/position=interpolate",
    ):
        check_strategy(gpt2, build_tiny("context=yarn", "context.target_length=256").strategy, 64)
    with pytest.raises(ConfigError, match=r"context/position=none: needs positions that are computed .*; use .* context\.target_length=64"):
        check_strategy(gpt2, build_tiny("context=none", "context.target_length=256").strategy, 64)
    check_strategy(gpt2, build_tiny("context=none", "context.target_length=64").strategy, 64)


@pytest.mark.parametrize("word", WORDS)
def test_a_checkpoint_that_was_extended_before_is_not_extended_again(word: str, build_tiny: Callable[..., Any], tmp_path: Path) -> None:
    job = build_tiny("context=yarn")
    model = job.model.build(257, seed=0)
    model.extend(job.strategy, 32, 128)
    again = build_tiny(f"context={word}", "context.target_length=256").strategy
    extended = opened(saved(model.network, tmp_path / "extended"))
    if word == "none":
        assert extended.extend(again, 128, 256)["rope_parameters"]["rope_type"] == "yarn"
    else:
        with pytest.raises(ConfigError, match=r"cannot act on a llama that was extended before \(rope_type yarn\)"):
            check_strategy(extended, again, 128)


def test_a_scaling_acts_on_the_layers_that_see_the_whole_sequence(build_tiny: Callable[..., Any], tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    local = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "num_key_value_heads": 1}
    gemma = opened(saved(Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=257, **shape, **local)), tmp_path / "gemma"))
    before = {name: buffer.clone() for name, buffer in gemma.network.named_buffers() if name.endswith("_attention_inv_freq")}
    gemma.extend(build_tiny("context=pi").strategy, 32, 128)
    for name, buffer in gemma.network.named_buffers():
        if name in before:
            assert_close(buffer, before[name] / (4 if "full" in name else 1))
    export(gemma, build_tiny().tokenizer.fit(build_tiny().data), tmp_path / "model")
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(TOKENS[:, :128]).logits
        assert_close(theirs, torch.nn.functional.linear(gemma.hidden(TOKENS[:, :128]), *gemma.head), rtol=0, atol=1e-5)


def test_a_network_that_changes_its_logits_after_the_head_is_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    cohere = opened(saved(CohereForCausalLM(CohereConfig(vocab_size=257, logit_scale=0.1, **shape)), tmp_path / "cohere"))
    with pytest.raises(ConfigError, match="is a cohere, which changes its logits after the head"):
        check_head(cohere)
