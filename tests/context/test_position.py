"""Every position in conf/ against transformers where it has the method, and against what the papers say it does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from omegaconf import OmegaConf
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.position.abf import AdjustedBase
from elongate.context.position.llama3 import Llama3
from elongate.context.position.ntk import NtkAware
from elongate.context.position.scaling import Rotary, Scaling
from elongate.context.position.yarn import Yarn
from elongate.errors import ConfigError

ROTARIES = [Rotary(32, 1e4, 256), Rotary(64, 1e4, 2048), Rotary(128, 5e5, 8192)]


def position(word: str) -> Scaling:
    return build(OmegaConf.load(conf_directory() / f"context/position/{word}.yaml"), "context.position")


EVERY = sorted(path.stem for path in (conf_directory() / "context/position").glob("*.yaml"))
WORDS = [word for word in EVERY if isinstance(position(word), Scaling)]


@pytest.mark.parametrize("rotary", ROTARIES, ids=str)
@pytest.mark.parametrize("factor", [1.5, 4.0, 16.0])
@pytest.mark.parametrize("word", WORDS)
def test_transformers_builds_the_closed_form_from_rope_parameters(word: str, factor: float, rotary: Rotary) -> None:
    if word == "abf" and rotary.theta >= 5e5:
        rotary = Rotary(rotary.dim, 1e4, rotary.original_length)
    chosen = position(word)
    config = LlamaConfig(
        hidden_size=rotary.dim,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=round(factor * rotary.original_length),
        rope_parameters=chosen.rope_parameters(rotary, factor),
    )
    built = LlamaRotaryEmbedding(config)
    assert_allclose(built.inv_freq.double().numpy(), chosen.frequencies(rotary, factor), rtol=1e-5)
    assert built.attention_scaling == pytest.approx(chosen.attention_factor(factor), rel=1e-6)


@pytest.mark.parametrize("word", [w for w in WORDS if w != "abf"])
def test_factor_one_changes_nothing(word: str) -> None:
    rotary = Rotary(32, 1e4, 256)
    assert_allclose(position(word).frequencies(rotary, 1.0), rotary.frequencies(), rtol=1e-12)
    assert position(word).attention_factor(1.0) == 1.0


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest_by_the_factor() -> None:
    rotary = Rotary(64, 1e4, 2048)
    ratio = NtkAware().frequencies(rotary, 8.0) / rotary.frequencies()
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(1 / 8)
    assert (np.diff(ratio) < 0).all()


def test_yarn_keeps_pairs_that_turn_often_and_interpolates_those_that_turn_less_than_once() -> None:
    rotary = Rotary(128, 1e4, 4096)
    ratio = Yarn().frequencies(rotary, 4.0) / rotary.frequencies()
    turns = rotary.original_length * rotary.frequencies() / (2 * math.pi)
    # The ramp is cut at whole pairs: one pair of tolerance at each end.
    assert_allclose(ratio[turns > 32 * 1e4 ** (2 / 128)], 1.0)
    assert_allclose(ratio[turns < 1 * 1e4 ** (-2 / 128)], 0.25)
    assert Yarn().attention_factor(4.0) == pytest.approx(0.1 * math.log(4.0) + 1)


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
        ("llama3", {"high_frequency_factor": 1}, "context.position.high_frequency_factor=1.0: must be above"),
        ("abf", {"theta": -1}, "context.position.theta=-1.0: must be above 1"),
        ("yarn", {"beta_fats": 16}, "context.position.beta_fats=16: there is no such key; did you mean context.position.beta_fast?"),
    ],
)
def test_ranges(word: str, override: dict[str, float], message: str) -> None:
    node = OmegaConf.merge(OmegaConf.load(conf_directory() / f"context/position/{word}.yaml"), override)
    with pytest.raises(ConfigError) as caught:
        build(node, "context.position")
    assert message in str(caught.value)


def test_frequencies_are_those_of_the_rotary_paper() -> None:
    assert_allclose(Rotary(4, 1e4, 1).frequencies(), [1.0, 0.01])
