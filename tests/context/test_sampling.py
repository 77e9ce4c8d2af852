"""Training-time positions: the published sampler by hand, what each sampling promises, and what models and plans make of it."""

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
from tests.conftest import evaluated
from tests.networks import VOCAB, network
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.position.interpolate import Interpolate
from elongate.context.sampling.pose import Pose, two_chunks
from elongate.context.sampling.randomized import Randomized
from elongate.context.sampling.sampling import Sampling
from elongate.data.sequences import SampledSequences
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.objectives.causal import next_token

WORDS = sorted(path.stem for path in (conf_directory() / "context/sampling").glob("*.yaml"))
SCALINGS = ["pi", "ntk", "yarn", "abf"]


def sampling(word: str) -> Sampling:
    return build(OmegaConf.load(conf_directory() / f"context/sampling/{word}.yaml"), "context.sampling")


def draw(chosen: Sampling, seed: int, length: int, reach: int) -> Any:
    return chosen.draw(np.random.default_rng(seed), chosen.text_length(length), length, reach)


# -- by hand ---------------------------------------------------------------------------------------------------------------


def test_two_chunks_by_hand() -> None:
    drawn = two_chunks(length=8, first=3, end=20, skip=10)
    assert_array_equal(drawn.tokens, [0, 1, 2, 15, 16, 17, 18, 19, 20])
    assert_array_equal(drawn.positions, [0, 1, 2, 13, 14, 15, 16, 17])
    assert_array_equal(np.flatnonzero(drawn.seams), [3])


def test_text_that_goes_on_has_no_seam_whatever_its_positions() -> None:
    drawn = two_chunks(length=8, first=3, end=8, skip=10)
    assert_array_equal(drawn.tokens, np.arange(9))
    assert not drawn.seams.any()


@given(st.data())
def test_inputs_and_positions_are_those_of_the_published_sampler(data: st.DataObject) -> None:
    """As the authors' function goes about it: cut two slices of a list, number their tokens, add a number to those of the second."""
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


# -- what is drawn ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 64), factor=st.floats(1, 16))
def test_positions_rise_below_the_reach_and_text_rises_within_the_text(word: str, seed: int, length: int, factor: float) -> None:
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
    drawn = [draw(Pose(), seed, 4, 10) for seed in range(3000)]
    skips = {int(one.positions[-1]) - 3 for one in drawn}
    assert skips == set(range(7))
    assert {int(one.tokens[-1]) for one in drawn} == set(range(4, 21))
    assert {int(np.flatnonzero(one.seams)[0]) for one in drawn if one.seams.any()} == {1, 2}


def test_randomized_meets_every_position_equally_often() -> None:
    count, length, reach = 4000, 8, 32
    met = np.bincount(np.concatenate([draw(Randomized(), seed, length, reach).positions for seed in range(count)]), minlength=reach)
    share = length / reach
    assert met.sum() == count * length
    assert (np.abs(met - count * share) < 5 * np.sqrt(count * share * (1 - share))).all()


def test_randomized_at_the_reach_itself_is_every_position() -> None:
    assert_array_equal(draw(Randomized(), 0, 32, 32).positions, np.arange(32))


# -- sequences -------------------------------------------------------------------------------------------------------------


def numbered(size: int) -> Tokens:
    return Tokens(np.arange(size, dtype=np.uint32), np.array([0, size // 3, size]))


@pytest.mark.parametrize("word", WORDS)
def test_a_sequence_does_not_depend_on_what_was_asked_before(word: str) -> None:
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
    # Tokens are numbered, so that a jump of theirs is a seam.
    assert_array_equal(np.diff(whole.tokens, axis=1) > 1, whole.starts[:, 1:])


@pytest.mark.parametrize("word", WORDS)
def test_the_reach_is_reached(word: str) -> None:
    batch = SampledSequences(numbered(1000), sampling(word), 8, 32, seed=0).batch(0, 500)
    assert (batch.reach, batch.positions.min()) == (32, 0)


@pytest.mark.parametrize("word", WORDS)
def test_a_text_of_one_sequence_comes_round_at_other_positions_and_a_shorter_one_is_refused(word: str) -> None:
    batch = SampledSequences(numbered(17), sampling(word), 16, 64, seed=0).batch(0, 8)
    assert_array_equal(batch.tokens, np.arange(17)[None].repeat(8, axis=0))
    assert len({tuple(row) for row in batch.positions}) > 4
    with pytest.raises(ConfigError, match="length=16: the train split has 16 tokens, one sequence needs 17"):
        SampledSequences(numbered(16), sampling(word), 16, 64, seed=0)


def test_a_token_after_a_seam_is_no_target() -> None:
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


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", ["llama-2", "gpt2"])
def test_every_plan_computes_the_gradient_of_plain_transformers_at_sampled_positions(kind: str, word: str, plan: str) -> None:
    random = np.random.default_rng(0)
    text = Tokens(random.integers(VOCAB, size=2000).astype(np.uint32), np.array([0, 2000]))
    batch = SampledSequences(text, sampling(word), 16, 256, seed=0).batch(0, 4)
    ours, theirs = (LanguageModel(network(kind, implementation), kind) for implementation in ("elongate", "sdpa"))
    if kind == "gpt2":
        for model in (ours, theirs):
            model.positions.set_table(Interpolate(), 64, 256)

    example = next_token(batch)
    loss = PLANS[plan].backward(ours, example)
    # Without a mask and a cache transformers takes positions that jump for packed documents, which do not see each other.
    mask = torch.ones(16, 16, dtype=torch.bool).tril()[None, None].expand(4, 1, -1, -1)
    logits = theirs.network(input_ids=example.inputs, position_ids=torch.from_numpy(batch.positions), attention_mask=mask).logits
    expected = F.cross_entropy(logits[example.scored], example.targets[example.scored])
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for (name, mine), (_, his) in zip(ours.network.named_parameters(), theirs.network.named_parameters(), strict=True):
        assert_close(mine.grad, his.grad, rtol=0, atol=1e-12, msg=name)


# -- runs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "scaling"), [*(("pose", each) for each in SCALINGS), ("randomized", "ntk")])
def test_a_run_with_any_scaling_trains_short_reaches_far_and_exports(
    word: str, scaling: str, ran: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    directory, results = ran("run", f"context={word}", f"context/position={scaling}", "context.curriculum.base.steps=2", "steps=6")
    strategy, (stage,) = results["strategy"], results["stages"]
    assert (strategy["sampling"], strategy["position"], strategy["factor"]) == (word, scaling, 4)
    assert stage["length"] == 32
    assert 96 < stage["reach"] <= 128
    assert (
        f"sampling {word}: active. Positions up to {stage['reach'] - 1} of 127 were used in sequences of 32 tokens"
        in capfd.readouterr().out
    )
    # The budget is counted in tokens read, and what the model is proved for is the target.
    assert stage["tokens"] == 6 * 256 == results["budget"]["tokens"]
    assert len(strategy["proof"]["frequencies"]) == 4
    model, tokens = Pretrained(source=str(directory.model)).build(257, 0), torch.randint(257, (2, 128))
    plain = AutoModelForCausalLM.from_pretrained(directory.model)
    assert plain.config.max_position_embeddings == 128
    with torch.no_grad():
        assert_close(plain(tokens).logits, F.linear(model.hidden(tokens), *model.head), rtol=0, atol=1e-5)
    again = evaluated(directory.path, directory.path.parent / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]


def test_stages_sample_below_their_own_reach(ran: Callable[..., Any]) -> None:
    _, results = ran("run", "context=pose", "context/curriculum=progressive", "context.curriculum.base.steps=2", "steps=8", "evaluation=[]")
    assert [(stage["name"], stage["length"]) for stage in results["stages"]] == [("extend-64", 32), ("extend-128", 32)]
    first, second = (stage["reach"] for stage in results["stages"])
    assert 32 < first <= 64 < second <= 128


def test_a_batch_need_only_hold_a_sequence_and_the_text_only_one(ran: Callable[..., Any], text_folder: Any) -> None:
    for path in text_folder.iterdir():
        path.write_text("x" * 30)  # the training split is longer than a sequence, and shorter than the target
    more = ["evaluation=[]", "context.curriculum.base.steps=2", "batch_tokens=64", "context.target_length=4096"]
    _, results = ran("run", "context=pose", *more)
    assert results["stages"][0]["reach"] > 256
    with pytest.raises(ConfigError, match=r"context\.target_length=4096: a sequence needs 4097 tokens"):
        ran("long", "context=yarn", "batch_tokens=8192", *more[:2], more[3])


@pytest.mark.parametrize("word", WORDS)
def test_there_must_be_positions_to_sample(word: str, build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_tiny(f"context={word}", "context.target_length=32")
    rule = f"is the model's original length: context/sampling={word} has no further positions to sample"
    assert str(caught.value) == f"context.target_length=32: {rule}; use context.target_length=128"


@pytest.mark.parametrize("word", WORDS)
def test_what_sampled_positions_would_mean_nothing_to_is_refused(word: str, build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^context/sampling={word}: cannot be had with data\.isolate_documents=true: .*; use one of"):
        build_tiny(f"context={word}", "data.isolate_documents=true")
    for attention in ("self_extend", "rerope", "dual_chunk", "sinks", "window", "shifted", "global_local"):
        with pytest.raises(ConfigError, match=f"^context/sampling={word}: cannot be had with context/attention={attention}, .*=full$"):
            build_tiny(f"context={word}", f"context/attention={attention}")


@pytest.mark.parametrize(
    ("model", "position", "remedy"), [("gpt", "alibi", "yarn"), ("gpt", "drope", "yarn"), ("gpt2", "alibi", "interpolate")]
)
def test_a_model_without_positions_has_none_to_sample(model: str, position: str, remedy: str, build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_tiny(f"model={model}", "context=pose", f"context/position={position}")
    rule = f"context/sampling=pose: cannot be had with context/position={position}, which leaves no positions to sample"
    assert str(caught.value) == f"{rule}; use context/position={remedy}"
