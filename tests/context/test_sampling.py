"""Samplings of training positions: the published sampler by hand, their properties, and models trained with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from omegaconf import OmegaConf
from tests.covering import all_pairs
from tests.networks import VOCAB, network
from torch.nn import functional as F
from torch.testing import assert_close

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.attention.dual_chunk import DualChunk
from elongate.context.attention.full import Full
from elongate.context.attention.global_local import GlobalLocal
from elongate.context.attention.rerope import ReRope
from elongate.context.attention.self_extend import SelfExtend
from elongate.context.attention.shifted import Shifted
from elongate.context.attention.sinks import Sinks
from elongate.context.attention.window import Window
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.alibi import Alibi
from elongate.context.position.drope import Dropped
from elongate.context.position.interpolate import Interpolate
from elongate.context.position.position import Position
from elongate.context.position.yarn import Yarn
from elongate.context.sampling.pose import Pose, two_chunks
from elongate.context.sampling.randomized import Randomized
from elongate.context.sampling.sampling import Sampling
from elongate.context.strategy import Strategy
from elongate.data.sequences import SampledSequences
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.gpt import Gpt
from elongate.models.gpt2 import Gpt2
from elongate.models.language_model import LanguageModel
from elongate.objectives.causal import next_token

WORDS = sorted(path.stem for path in (conf_directory() / "context/sampling").glob("*.yaml"))


def sampling(word: str) -> Sampling:
    return build(OmegaConf.load(conf_directory() / f"context/sampling/{word}.yaml"), "context.sampling")


def sampled(word: str, **answers: Any) -> Strategy:
    defaults = {"position": Yarn(), "attention": Full(), "curriculum": Fixed(), "target_length": 128}
    return Strategy(**defaults | {"sampling": sampling(word)} | answers)


def draw(chosen: Sampling, seed: int, length: int, reach: int) -> Any:
    return chosen.draw(np.random.default_rng(seed), chosen.text_length(length), length, reach)


# -- by hand ---------------------------------------------------------------------------------------------------------------


def test_two_chunks_by_hand() -> None:
    drawn = two_chunks(length=8, first=3, end=20, skip=10)
    assert_array_equal(drawn.tokens, [0, 1, 2, 15, 16, 17, 18, 19, 20])
    assert_array_equal(drawn.positions, [0, 1, 2, 13, 14, 15, 16, 17])
    assert_array_equal(np.flatnonzero(drawn.seams), [3])


def test_contiguous_text_has_no_seam_at_any_positions() -> None:
    drawn = two_chunks(length=8, first=3, end=8, skip=10)
    assert_array_equal(drawn.tokens, np.arange(9))
    assert not drawn.seams.any()


@given(st.data())
def test_inputs_and_positions_equal_those_of_the_published_sampler(data: st.DataObject) -> None:
    """Like the authors' function: cut two slices of a list, number their tokens, add a number to those of the second."""
    length = data.draw(st.integers(2, 40))
    text = data.draw(st.integers(length, 5 * length))
    target = data.draw(st.integers(length, 8 * length))
    right_of_first = data.draw(st.integers(1, (length + 1) // 2))
    right_of_second = data.draw(st.integers(length, text))
    shift = data.draw(st.integers(0, target - length))
    ids = list(range(text))
    left_of_second = right_of_second - (length - right_of_first)
    kept = ids[:right_of_first] + ids[left_of_second:right_of_second]
    numbers = torch.arange(len(kept))
    numbers[right_of_first:] += shift

    drawn = two_chunks(length, right_of_first, right_of_second, shift)
    assert drawn.tokens[:-1].tolist() == kept
    assert drawn.tokens[-1] == kept[-1] + 1  # the target of the last input, which the authors do not score
    assert drawn.positions.tolist() == numbers.tolist()


# -- properties of the draws -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 64), factor=st.floats(1, 16))
def test_positions_and_tokens_increase_within_their_bounds(word: str, seed: int, length: int, factor: float) -> None:
    chosen, reach = sampling(word), round(factor * length)
    drawn = draw(chosen, seed, length, reach)
    assert len(drawn.positions) == length
    assert (np.diff(drawn.positions) > 0).all()
    assert drawn.positions[0] >= 0
    assert drawn.positions[-1] < reach
    assert len(drawn.tokens) == length + 1
    assert (np.diff(drawn.tokens) > 0).all()
    assert drawn.tokens[0] >= 0
    assert drawn.tokens[-1] <= chosen.text_length(length)
    assert_array_equal(np.flatnonzero(np.diff(drawn.tokens) > 1) + 1, np.flatnonzero(drawn.seams))


def test_pose_draws_every_cut_and_every_shift() -> None:
    drawn = [draw(Pose(), seed, 4, 10) for seed in range(600)]
    skips = {int(one.positions[-1]) - 3 for one in drawn}
    assert skips == set(range(7))
    assert {int(one.tokens[-1]) for one in drawn} == set(range(4, 21))
    assert {int(np.flatnonzero(one.seams)[0]) for one in drawn if one.seams.any()} == {1, 2}


def test_randomized_draws_every_position_equally_often() -> None:
    count, length, reach = 1500, 8, 32
    met = np.bincount(np.concatenate([draw(Randomized(), seed, length, reach).positions for seed in range(count)]), minlength=reach)
    share = length / reach
    assert met.sum() == count * length
    assert (np.abs(met - count * share) < 5 * np.sqrt(count * share * (1 - share))).all()


def test_randomized_at_the_full_length_is_every_position() -> None:
    assert_array_equal(draw(Randomized(), 0, 32, 32).positions, np.arange(32))


# -- sequences -------------------------------------------------------------------------------------------------------------


def numbered(size: int) -> Tokens:
    return Tokens(np.arange(size, dtype=np.uint32), np.array([0, size // 3, size]))


@pytest.mark.parametrize("word", WORDS)
def test_a_sequence_does_not_depend_on_earlier_requests(word: str) -> None:
    def sequences(seed: int = 7) -> SampledSequences:
        return SampledSequences(numbered(1000), sampling(word), 16, 64, seed)

    whole, used = sequences().batch(20, 8), sequences()
    for index in (27, 3, 24, *range(20, 28)):
        one = used.batch(index, 1)
        if index >= 20:
            assert_array_equal(one.tokens[0], whole.tokens[index - 20])
            assert_array_equal(one.positions[0], whole.positions[index - 20])
            assert_array_equal(one.starts[0], whole.starts[index - 20])
    assert (sequences(8).batch(20, 8).positions != whole.positions).any()
    # Tokens are numbered, so a jump between two of them is a seam.
    assert_array_equal(np.diff(whole.tokens, axis=1) > 1, whole.starts[:, 1:])


@pytest.mark.parametrize("word", WORDS)
def test_the_largest_position_occurs(word: str) -> None:
    batch = SampledSequences(numbered(1000), sampling(word), 8, 32, seed=0).batch(0, 500)
    assert (batch.reach, batch.positions.min()) == (32, 0)


@pytest.mark.parametrize("word", WORDS)
def test_a_text_of_one_sequence_recurs_at_other_positions_and_a_shorter_one_is_refused(word: str) -> None:
    batch = SampledSequences(numbered(17), sampling(word), 16, 64, seed=0).batch(0, 8)
    assert_array_equal(batch.tokens, np.arange(17)[None].repeat(8, axis=0))
    assert len({tuple(row) for row in batch.positions}) > 4
    with pytest.raises(ConfigError, match="length=16: the train split has 16 tokens, one sequence needs 17"):
        SampledSequences(numbered(16), sampling(word), 16, 64, seed=0)


def test_a_token_after_a_seam_is_not_a_target() -> None:
    batch = SampledSequences(numbered(1000), Pose(), 16, 64, seed=0).batch(0, 64)
    example = next_token(batch)
    assert_array_equal(~example.scored.numpy(), np.diff(batch.tokens, axis=1) > 1)
    assert (~example.scored).sum(1).unique().tolist() == [0, 1]


# -- models ----------------------------------------------------------------------------------------------------------------

PLANS: dict[str, Memory] = {
    "plain": Plain(),
    "checkpoint": Checkpoint(),
    "stream": Stream(chunk_length=5),
    "stream recomputed": Stream(chunk_length=8, keep_attention=False),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "word", "plan"), all_pairs(["llama-2", "gpt2"], WORDS, [*PLANS]))
def test_every_memory_plan_computes_the_gradient_of_plain_transformers(kind: str, word: str, plan: str) -> None:
    random = np.random.default_rng(0)
    text = Tokens(random.integers(VOCAB, size=2000).astype(np.uint32), np.array([0, 2000]))
    batch = SampledSequences(text, sampling(word), 16, 256, seed=0).batch(0, 4)
    ours, theirs = (LanguageModel(network(kind, implementation), kind) for implementation in ("elongate", "sdpa"))
    if kind == "gpt2":
        for model in (ours, theirs):
            model.positions.learned.set(Interpolate(), 64, 256)

    example = next_token(batch)
    loss = PLANS[plan].backward(ours, example)
    # Without a mask and a cache transformers reads a jump in positions as the border of packed documents.
    mask = torch.ones(16, 16, dtype=torch.bool).tril()[None, None].expand(4, 1, -1, -1)
    logits = theirs.network(input_ids=example.inputs, position_ids=torch.from_numpy(batch.positions), attention_mask=mask).logits
    expected = F.cross_entropy(logits[example.scored], example.targets[example.scored])
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for (name, mine), (_, his) in zip(ours.network.named_parameters(), theirs.network.named_parameters(), strict=True):
        assert_close(mine.grad, his.grad, rtol=0, atol=1e-12, msg=name)


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
def test_sampling_is_refused_without_an_extension(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sampled(word, target_length=32).check_length(32)
    rule = f"is the model's original length: context/sampling={word} has no further positions to sample"
    assert str(caught.value) == f"context.target_length=32: {rule}; use context.target_length=128"


@pytest.mark.slow
def test_sampling_is_refused_with_packed_documents(build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"^context/sampling=pose: cannot be .* with data\.isolate_documents=true: .*; use one of"):
        build_tiny("context=pose", "data.isolate_documents=true")


@pytest.mark.parametrize("word", WORDS)
def test_attentions_that_ignore_positions_or_have_their_own_are_refused(word: str) -> None:
    for attention in (SelfExtend(), ReRope(), DualChunk(), Sinks(), Window(), Shifted(), GlobalLocal()):
        rule = f"^context/sampling={word}: cannot be combined with context/attention={attention.word}, .*=full$"
        with pytest.raises(ConfigError, match=rule):
            sampled(word, attention=attention).check(Gpt.has, 32, "gpt")


@pytest.mark.parametrize(
    ("model", "position", "remedy"), [(Gpt, Alibi(), "yarn"), (Gpt, Dropped(), "yarn"), (Gpt2, Alibi(), "interpolate")]
)
def test_sampling_is_refused_if_the_strategy_leaves_no_positions(model: Any, position: Position, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sampled("pose", position=position).check(model.has, 32, model.word)
    rule = f"context/sampling=pose: cannot be combined with context/position={position.word}, which leaves no positions to sample"
    assert str(caught.value) == f"{rule}; use context/position={remedy}"
