"""objective=bidirectional: which objective it is on which model, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import TINY, TINY_MODEL, composed
from tests.networks import VOCAB
from torch import Tensor

from elongate.build import build_job
from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.memory.plain import Plain
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.objectives.bidirectional import Bidirectional
from elongate.objectives.continuation import Continuation
from elongate.objectives.meet_in_the_middle import MeetInTheMiddle
from elongate.objectives.mixture import Mixture
from elongate.objectives.objective import Objective
from elongate.objectives.reconstruction import Reconstruction
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

ROWS = 3


@pytest.mark.slow
def test_on_the_autoencoder_it_is_a_mixture_of_two_objectives() -> None:
    tiny = {"original_length": 16, "block_length": 4, "latents_per_block": 4, "dim": 16, "num_heads": 2, "mlp_dim": 24}
    model = BidirectionalAutoencoder(**tiny).build(VOCAB, seed=0)
    model.network.double()
    model.mask_token = VOCAB - 1
    texts = Batch(np.random.default_rng(0).integers(VOCAB, size=(ROWS, 17)), None, None)

    def computed(objective: Objective) -> tuple[float, list[Tensor]]:
        model.network.zero_grad()
        loss = sum(Plain(micro_batch_tokens=20).backward(model, example) for example in objective.examples(texts, model))
        # Some parameters get a gradient from one of the two objectives only.
        return loss, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    mixture = Bidirectional(reconstruction_share=0.3).bind(model.has, 16)
    assert mixture.masks
    assert mixture.scorer == Continuation().scorer
    (reconstructed, one), (continued, other) = (computed(objective.bind(model.has, 16)) for objective in (Reconstruction(), Continuation()))
    loss, gradients = computed(mixture)
    assert reconstructed != pytest.approx(continued)
    assert loss == pytest.approx(0.3 * reconstructed + 0.7 * continued, rel=1e-12)
    for mixed, a, b in zip(gradients, one, other, strict=True):
        expected = 0.3 * a + 0.7 * b
        assert (mixed - expected).norm() <= 1e-6 * expected.norm()  # norms are float32, so scaling rounds differently


@pytest.mark.slow
def test_a_job_on_the_autoencoder_contains_the_mixture() -> None:
    words = ["model=bidirectional_autoencoder", "objective=bidirectional", "objective.reconstruction_share=0.25", "memory=auto"]
    job = build_job(*composed(*words))
    assert job.objective == Mixture(reconstruction_share=0.25)
    with pytest.raises(ConfigError, match=r"context.target_length=1000: is not a multiple of the block length"):
        build_job(*composed(*words, "context.target_length=1000"))


def test_on_a_causal_model_it_is_meet_in_the_middle() -> None:
    assert Bidirectional(agreement=0.3).bind(frozenset({"causal"}), 16) == MeetInTheMiddle(agreement=0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"agreement": -0.1}, "agreement=-0.1: must be at least 0"),
        ({"reconstruction_share": 1.0}, r"reconstruction_share=1.0: must be in \(0, 1\)"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bidirectional(**fields)


def test_fields_and_models_without_effect_are_refused() -> None:
    message = "has no effect on model=bert, whose own objective uses both directions; use objective=masked"
    with pytest.raises(ConfigError, match=f"objective=bidirectional: {message}"):
        Bidirectional().check(frozenset({"bidirectional", "masked"}), "bert")
    with pytest.raises(ConfigError, match=r"objective.reconstruction_share=0.3: has no effect on model=gpt"):
        Bidirectional(reconstruction_share=0.3).check(frozenset({"causal"}), "gpt")
    with pytest.raises(ConfigError, match=r"objective.agreement=0.3: has no effect on model=bidirectional_autoencoder"):
        Bidirectional(agreement=0.3).check(frozenset({"autoencoder"}), "bidirectional_autoencoder")


@pytest.mark.parametrize("memory", ["stream", "auto"])
def test_memory_plans_that_split_a_sequence_are_refused(memory: str, build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=f"memory={memory}: cannot be combined with objective=bidirectional.*use memory=checkpoint"):
        build_tiny("objective=bidirectional", f"memory={memory}")


@pytest.mark.slow
def test_a_run_learns_both_directions_and_is_scored_left_to_right(text_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    more = ["data=text", f"data.path={text_folder}", "data.isolate_documents=true"]
    more += ["memory=checkpoint", "precision=bf16", f"context.curriculum.base.directory={tmp_path}/bases"]
    more += ["context.curriculum.base.steps=1", "evaluation=[curve]", "evaluation.curve.num_sequences=2"]
    job = build_job(*composed(*TINY, *TINY_MODEL, f"data.cache={tmp_path}/cache", "objective=bidirectional", *more))
    results = run(job, RunDirectory(tmp_path / "run"))
    assert results["strategy"]["objective"] == "bidirectional"
    assert results["budget"]["tokens"] == 3 * 256  # tokens of text; each is read twice
    assert results["curve"]["table"]["after"]
