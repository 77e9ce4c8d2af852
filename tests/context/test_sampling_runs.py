"""Whole runs with sampled positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from elongate.errors import ConfigError
from elongate.models.pretrained import Pretrained


# tests/test_matrix.py also runs both samplings as their presets combine them.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "scaling"),
    [
        ("pose", "ntk"),
        *(pytest.param(*row, marks=pytest.mark.grid) for row in [("pose", "pi"), ("pose", "yarn"), ("pose", "abf"), ("randomized", "ntk")]),
    ],
)
def test_a_run_with_any_scaling_trains_short_sequences_at_far_positions(
    word: str, scaling: str, ran: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    directory, results = ran(
        "run", f"context={word}", f"context/position={scaling}", "evaluation=[]", "context.curriculum.base.steps=2", "steps=6"
    )
    strategy, (stage,) = results["strategy"], results["stages"]
    assert (strategy["sampling"], strategy["position"], strategy["factor"]) == (word, scaling, 4)
    assert stage["length"] == 32
    assert 96 < stage["reach"] <= 128
    line = f"sampling {word}: active. Positions up to {stage['reach'] - 1} of 127 were used in sequences of 32 tokens"
    assert line in capfd.readouterr().out
    # The budget counts the tokens read; the model is verified for the target length.
    assert stage["tokens"] == 6 * 256 == results["budget"]["tokens"]
    assert len(strategy["proof"]["frequencies"]) == 4
    model, tokens = Pretrained(source=str(directory.model)).build(257, 0), torch.randint(257, (2, 128))
    plain = AutoModelForCausalLM.from_pretrained(directory.model)
    assert plain.config.max_position_embeddings == 128
    with torch.no_grad():
        assert_close(plain(tokens).logits, model.logits(model.hidden(tokens)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_stages_sample_below_their_own_reach(ran: Callable[..., Any]) -> None:
    _, results = ran("run", "context=pose", "context/curriculum=progressive", "context.curriculum.base.steps=2", "steps=8", "evaluation=[]")
    assert [(stage["name"], stage["length"]) for stage in results["stages"]] == [("extend-64", 32), ("extend-128", 32)]
    first, second = (stage["reach"] for stage in results["stages"])
    assert 32 < first <= 64 < second <= 128


@pytest.mark.slow
def test_a_batch_and_the_text_need_only_contain_one_short_sequence(ran: Callable[..., Any], text_folder: Any) -> None:
    for path in text_folder.iterdir():
        path.write_text("x" * 30)  # the training split is longer than a sequence, and shorter than the target
    more = ["evaluation=[]", "context.curriculum.base.steps=2", "batch_tokens=64", "context.target_length=4096"]
    _, results = ran("run", "context=pose", *more)
    assert results["stages"][0]["reach"] > 256
    with pytest.raises(ConfigError, match=r"context\.target_length=4096: a sequence needs 4097 tokens"):
        ran("long", "context=yarn", "batch_tokens=8192", *more[:2], more[3])
