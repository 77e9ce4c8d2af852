"""Every position in conf/ compared with transformers, if it has the method, and with the formulas of the papers."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from omegaconf import OmegaConf
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.position.abf import AdjustedBase
from elongate.context.position.drope import Dropped
from elongate.context.position.dynamic_ntk import DynamicNtk
from elongate.context.position.llama3 import Llama3
from elongate.context.position.longrope import LongRope
from elongate.context.position.ntk import NtkAware
from elongate.context.position.ntk_by_parts import NtkByParts
from elongate.context.position.proportional import Proportional
from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.context.position.yarn import Yarn
from elongate.errors import ConfigError

ROTARIES = [Rotary(32, 1e4, 256), Rotary(64, 1e4, 2048), Rotary(128, 5e5, 8192)]


def position(word: str) -> Scaling:
    return build(OmegaConf.load(conf_directory() / f"context/position/{word}.yaml"), "context.position")


EVERY = sorted(path.stem for path in (conf_directory() / "context/position").glob("*.yaml"))
WORDS = [word for word in EVERY if isinstance(position(word), Scaling)]


def embedding(chosen: Scaling, rotary: Rotary, factor: float) -> LlamaRotaryEmbedding:
    """The embedding that transformers builds from the exported parameters."""
    config = LlamaConfig(
        hidden_size=rotary.dim,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=chosen.stated_length(rotary.original_length, round(factor * rotary.original_length)),
        rope_parameters=chosen.rope_parameters(rotary, factor),
    )
    return LlamaRotaryEmbedding(config)


# The formulas are compared in float64 on all pairs, so two factors and sizes are enough; the third row is a grid.
CASES = [(1.5, ROTARIES[0]), (16.0, ROTARIES[2])]


@pytest.mark.parametrize(
    ("factor", "rotary"),
    [pytest.param(*case, marks=() if case in CASES else pytest.mark.grid) for case in product([1.5, 4.0, 16.0], ROTARIES)],
    ids=str,
)
@pytest.mark.parametrize("word", WORDS)
def test_transformers_builds_the_closed_form_from_rope_parameters(word: str, factor: float, rotary: Rotary) -> None:
    if word == "abf" and rotary.theta >= 5e5:
        rotary = Rotary(rotary.dim, 1e4, rotary.original_length)
    chosen, original = position(word), rotary.original_length
    built = embedding(chosen, rotary, factor)
    # From short to long: transformers updates an embedding that depends on the length when the largest position grows.
    for length in (original // 2, original, original + 1, round(1.25 * original), round(factor * original)):
        built(torch.zeros(1), torch.tensor([[0, length - 1]]))
        assert_allclose(built.inv_freq.double().numpy(), chosen.read_frequencies(rotary, factor, length), rtol=1e-6, atol=1e-26)
        assert built.attention_scaling == pytest.approx(chosen.attention_factor(rotary, factor), rel=1e-6)
    assert_allclose(chosen.frequencies(rotary, factor), chosen.read_frequencies(rotary, factor, round(factor * original)), rtol=1e-15)


@pytest.mark.parametrize(
    ("factor", "rotary"),
    [(32.0, Rotary(64, 150000.0, 4096)), (4.0, ROTARIES[0])],  # gpt-oss, the default model
    ids=str,
)
def test_yarn_without_rounding_equals_that_of_transformers(factor: float, rotary: Rotary) -> None:
    chosen = Yarn(truncate=False)
    built = embedding(chosen, rotary, factor)
    assert_allclose(built.inv_freq.double().numpy(), chosen.frequencies(rotary, factor), rtol=1e-6)
    assert built.attention_scaling == pytest.approx(chosen.attention_factor(rotary, factor), rel=1e-6)
    assert abs(chosen.frequencies(rotary, factor) / Yarn().frequencies(rotary, factor) - 1).max() > 0.02


@pytest.mark.parametrize(("mscale", "all_dim", "factor"), [(1.0, 1.0, 40.0), (0.707, 0.707, 40.0), (0.5, 1.0, 4.0), (2.0, 0.25, 16.0)])
def test_mscale_equals_that_of_transformers(mscale: float, all_dim: float, factor: float) -> None:
    rotary, chosen = Rotary(64, 1e4, 4096), Yarn(mscale=mscale, mscale_all_dim=all_dim)
    given = {"rope_type": "yarn", "rope_theta": 1e4, "factor": factor, "original_max_position_embeddings": 4096}
    given |= {"mscale": mscale, "mscale_all_dim": all_dim}
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1}
    theirs = LlamaRotaryEmbedding(LlamaConfig(**sizes, max_position_embeddings=round(4096 * factor), rope_parameters=given))
    ours = embedding(chosen, rotary, factor)
    assert ours.attention_scaling == pytest.approx(theirs.attention_scaling, rel=1e-12)
    assert torch.equal(ours.inv_freq, theirs.inv_freq)
    assert Yarn(mscale=0.0).attention_factor(rotary, factor) == 1


@pytest.mark.parametrize(("share", "rotating"), [(0.75, 12), (0.25, 4), (0.1, 1), (0.99, 15)])
def test_the_slowest_pairs_of_p_rope_do_not_rotate(share: float, rotating: int) -> None:
    rotary = Rotary(32, 1e4, 256)
    expected = [1e4 ** (-2 * i / 32) if i < rotating else 0.0 for i in range(16)]
    assert_allclose(Proportional(share=share).frequencies(rotary, 8.0), expected, rtol=1e-15)
    cosine, sine = embedding(Proportional(share=share), rotary, 8.0)(torch.zeros(1), torch.tensor([[0, 255, 2**20]]))
    for half in (cosine[..., :16], cosine[..., 16:]):
        assert (half[..., rotating:] == 1).all()
    assert (sine.abs()[..., rotating:16] < 1e-20).all()
    with pytest.raises(
        ConfigError, match=r"context\.position\.share=0\.05: leaves none of the 16 pairs .* use context\.position\.share=0\.0625 "
    ):
        Proportional(share=0.05).check(rotary, 8.0)


# abf has its own theta; drope and proportional drop positions.
@pytest.mark.parametrize("word", [w for w in WORDS if w not in ("abf", "drope", "proportional")])
def test_factor_one_changes_nothing(word: str) -> None:
    rotary = Rotary(32, 1e4, 256)
    for length in (10, 256):
        assert_allclose(position(word).read_frequencies(rotary, 1.0, length), rotary.frequencies(), rtol=1e-12)
    assert position(word).attention_factor(rotary, 1.0) == 1.0


@pytest.mark.parametrize("word", ["dynamic_ntk", "longrope"])
def test_up_to_the_original_length_the_frequencies_are_the_trained_ones(word: str) -> None:
    rotary = Rotary(32, 1e4, 256)
    for length in (1, 255, 256):
        assert (position(word).read_frequencies(rotary, 8.0, length) == rotary.frequencies()).all()
    assert (position(word).read_frequencies(rotary, 8.0, 257) != rotary.frequencies()).any()


@pytest.mark.parametrize("length", [257, 700, 2048, 5000])
@pytest.mark.parametrize("scale", [None, 1.0, 2.0])
def test_dynamic_ntk_is_the_ntk_rule_for_the_length_of_the_text(length: int, scale: float | None) -> None:
    rotary, s = Rotary(32, 1e4, 256), scale or 8.0
    theta = 1e4 * (s * length / 256 - (s - 1)) ** (32 / 30)
    by_hand = [theta ** (-2 * i / 32) for i in range(16)]
    assert_allclose(DynamicNtk(scale=scale).read_frequencies(rotary, 8.0, length), by_hand, rtol=1e-12)
    if scale == 1.0:
        assert_allclose(by_hand, NtkAware(alpha=length / 256).frequencies(rotary, 8.0), rtol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 32.0), (2.0, 5.0)])
def test_ntk_by_parts_is_the_paper_s_ramp_over_turns(alpha: float, beta: float) -> None:
    rotary, by_hand = Rotary(64, 1e4, 2048), []
    for i in range(32):
        theta = 1e4 ** (-2 * i / 64)
        turns = 2048 / (2 * math.pi / theta)
        ramp = 0 if turns < alpha else 1 if turns > beta else (turns - alpha) / (beta - alpha)
        by_hand.append((1 - ramp) * theta / 8 + ramp * theta)
    chosen = NtkByParts(alpha=alpha, beta=beta)
    assert_allclose(chosen.frequencies(rotary, 8.0), by_hand, rtol=1e-12)
    assert chosen.attention_factor(rotary, 8.0) == 1.0


def test_longrope_divides_each_frequency_by_its_factor() -> None:
    rotary, short, long = Rotary(8, 1e4, 256), [1.0, 1.01, 1.5, 2.0], [1.0, 3.25, 3.0, 8.5]
    chosen = LongRope(short_factor=short, long_factor=long)
    for length, factors in ((256, short), (257, long), (9999, long)):
        by_hand = [1 / (factors[i] * 1e4 ** (2 * i / 8)) for i in range(4)]
        assert_allclose(chosen.read_frequencies(rotary, 8.0, length), by_hand, rtol=1e-12)
    assert chosen.attention_factor(rotary, 8.0) == pytest.approx(math.sqrt(1 + math.log(8) / math.log(256)))


def test_longrope_without_lists_or_search_has_the_frequencies_of_yarn() -> None:
    rotary = Rotary(64, 1e4, 256)
    assert_allclose(LongRope().frequencies(rotary, 8.0), Yarn().frequencies(rotary, 8.0), rtol=1e-12)


@pytest.mark.parametrize("rotary", [*ROTARIES, Rotary(128, 1e10, 8192)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_drope_does_not_rotate(rotary: Rotary, dtype: torch.dtype) -> None:
    far = torch.tensor([[0, 1, 1000, 10**7]])
    cosine, sine = embedding(Dropped(), rotary, 8.0)(torch.zeros(1, dtype=dtype), far)
    states = torch.randn(1, 2, 4, rotary.dim, dtype=dtype, generator=torch.Generator().manual_seed(0))
    turned, _ = apply_rotary_pos_emb(states, states, cosine, sine)
    assert torch.equal(turned, states)


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest_by_the_factor() -> None:
    rotary = Rotary(64, 1e4, 2048)
    ratio = NtkAware().frequencies(rotary, 8.0) / rotary.frequencies()
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(1 / 8)
    assert (np.diff(ratio) < 0).all()


def test_yarn_keeps_fast_pairs_and_interpolates_pairs_that_turn_less_than_once() -> None:
    rotary = Rotary(128, 1e4, 4096)
    ratio = Yarn().frequencies(rotary, 4.0) / rotary.frequencies()
    turns = rotary.original_length * rotary.frequencies() / (2 * math.pi)
    # The ramp starts and ends at whole pairs: one pair of tolerance at each end.
    assert_allclose(ratio[turns > 32 * 1e4 ** (2 / 128)], 1.0)
    assert_allclose(ratio[turns < 1 * 1e4 ** (-2 / 128)], 0.25)
    assert Yarn().attention_factor(rotary, 4.0) == pytest.approx(0.1 * math.log(4.0) + 1)


def test_llama3_bands_by_wavelength() -> None:
    rotary = Rotary(128, 5e5, 8192)
    wavelength = 2 * math.pi / rotary.frequencies()
    ratio = Llama3().frequencies(rotary, 8.0) / rotary.frequencies()
    assert_allclose(ratio[wavelength < 8192 / 4], 1.0)
    assert_allclose(ratio[wavelength > 8192], 1 / 8)
    assert ((ratio >= 1 / 8) & (ratio <= 1)).all()


def test_abf_refuses_a_theta_that_extends_nothing() -> None:
    with pytest.raises(ConfigError, match=r"context\.position\.theta=500000: must be above the model's own theta of 1e\+06"):
        AdjustedBase().check(Rotary(64, 1e6, 4096), 4.0)


@pytest.mark.parametrize(
    ("word", "override", "message"),
    [
        ("ntk", {"alpha": 0.5}, "context.position.alpha=0.5: must be above 1"),
        ("yarn", {"beta_slow": 40}, "context.position.beta_fast=32.0: must be above beta_slow=40"),
        ("yarn", {"mscale": -1}, "context.position.mscale=-1.0: must be a finite number, at least 0; use context.position.mscale=1"),
        ("proportional", {"share": 1}, "context.position.share=1.0: must be above 0 and below 1; use context.position.share=0.75"),
        ("llama3", {"high_frequency_factor": 1}, "context.position.high_frequency_factor=1.0: must be above"),
        ("abf", {"theta": -1}, "context.position.theta=-1.0: must be above 1"),
        ("ntk_by_parts", {"beta": 0.5}, "context.position.beta=0.5: must be above alpha=1"),
        ("dynamic_ntk", {"scale": 0.5}, "context.position.scale=0.5: must be at least 1"),
        ("longrope", {"long_factor": [1, math.nan]}, "context.position.long_factor=nan: must be a finite number, at least 1"),
        ("longrope", {"short_factor": [1, 0.5]}, "context.position.short_factor=0.5: must be a finite number, at least 1"),
        ("longrope", {"factors": "/nowhere.json"}, "context.position.factors=/nowhere.json: cannot be read: No such file"),
        ("longrope", {"search": {"parents": 1}}, "context.position.search.parents=1: must be at least 2"),
        ("longrope", {"search": {"population": 8}}, "context.position.search.population=8: must be at least parents=32"),
        ("longrope", {"long_factor": [1], "search": {"iterations": 3}}, "context.position.search={…}: has no effect if factors are given"),
        ("yarn", {"beta_fats": 16}, "context.position.beta_fats=16: there is no such key; did you mean context.position.beta_fast?"),
    ],
)
def test_ranges(word: str, override: dict[str, Any], message: str) -> None:
    node = OmegaConf.merge(OmegaConf.load(conf_directory() / f"context/position/{word}.yaml"), override)
    with pytest.raises(ConfigError) as caught:
        build(node, "context.position")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["short_factor", "long_factor"])
def test_there_must_be_one_factor_per_pair(key: str) -> None:
    LongRope(**{key: [1.0] * 4}).check(Rotary(8, 1e4, 256), 8.0)
    with pytest.raises(ConfigError, match=rf"context\.position\.{key}=\[1\.0,1\.0\]: must have a factor for each of the 4 pairs .*, not 2"):
        LongRope(**{key: [1.0, 1.0]}).check(Rotary(8, 1e4, 256), 8.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "does not contain the lists short_factor and long_factor of numbers"),
        ('{"long_factor": [1]}', "does not contain the lists short_factor and long_factor of numbers"),
        ('{"long_factor": [1, "x"], "short_factor": [1, 1]}', "does not contain the lists short_factor and long_factor of numbers"),
        ('{"long_factor": [1, 0], "short_factor": [1, 1]}', r"must be a finite number, at least 1 \(its long_factor\)"),
    ],
)
def test_unusable_files_of_factors_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "longrope.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        LongRope(factors=str(tmp_path / "longrope.json"))


def test_a_file_of_factors_replaces_the_lists(tmp_path: Path) -> None:
    lists = {"short_factor": [1.0, 1.0, 1.5, 2.0], "long_factor": [1.0, 2.0, 3.0, 4.0]}
    (tmp_path / "longrope.json").write_text(json.dumps(lists))
    read, rotary = LongRope(factors=str(tmp_path / "longrope.json")), Rotary(8, 1e4, 256)
    assert read.rope_parameters(rotary, 8.0) == LongRope(**lists).rope_parameters(rotary, 8.0)
    with pytest.raises(ConfigError, match="contains a short_factor for 4 pairs of dimensions, the model rotates 8"):
        read.check(Rotary(16, 1e4, 256), 8.0)
    with pytest.raises(ConfigError, match="replaces both lists"):
        LongRope(factors=str(tmp_path / "longrope.json"), short_factor=[1.0])


def test_frequencies_equal_those_of_the_rotary_paper() -> None:
    assert_allclose(Rotary(4, 1e4, 1).frequencies(), [1.0, 0.01])
