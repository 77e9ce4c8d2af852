"""Two directions against transformers' own attention and whole logits, in fp64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from tests.conftest import composed
from tests.networks import VOCAB, network
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import PreTrainedModel

from elongate.build import build_job
from elongate.data.sequences import Batch
from elongate.errors import ConfigError
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.models.language_model import LanguageModel
from elongate.objectives import agreement
from elongate.objectives.agreement import states_of_both, summed_disagreement
from elongate.objectives.bidirectional import Bidirectional
from elongate.objectives.continuation import Continuation
from elongate.objectives.meet_in_the_middle import MeetInTheMiddle, reversed_positions
from elongate.objectives.mixture import Mixture
from elongate.objectives.objective import Example, Objective
from elongate.objectives.reconstruction import Reconstruction

ROWS, LENGTH = 3, 14
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(ROWS, LENGTH + 1))
DOCUMENTS = [[15], [1, 6, 8], [4, 10, 1]]  # tokens of each, row by row; the last one of the last row is a target only
WHOLE = [[15]] * ROWS


def batch(documents: list[list[int]]) -> Batch:
    if documents == WHOLE:
        return Batch(TOKENS, None, None)
    positions = np.stack([np.concatenate([np.arange(n) for n in row]) for row in documents])
    return Batch(TOKENS, positions[:, :-1], positions == 0)


def dense(model: PreTrainedModel, documents: list[list[int]], weight: float) -> Tensor:
    """Document by document, direction by direction, from whole logits."""
    losses, distances = [], []
    for row, lengths in zip(torch.from_numpy(TOKENS), documents, strict=True):
        for first, last in pairwise(np.cumsum([0, *lengths])):
            text = row[first:last]
            if len(text) < 2:
                continue
            onward, back = (model(input_ids=x[None, :-1]).logits[0] for x in (text, text.flip(0)))
            losses += [F.cross_entropy(onward, text[1:], reduction="none"), F.cross_entropy(back, text.flip(0)[1:], reduction="none")]
            # Tokens 1 … n − 2 of the document, once in either order.
            distances.append((onward[:-1].softmax(-1) - back.flip(0)[1:].softmax(-1)).abs().sum(-1) / 2)
    return torch.cat(losses).mean() + weight * torch.cat(distances).mean()


@pytest.mark.parametrize(
    "memory",
    [Plain(), Plain(micro_batch_tokens=1), Plain(micro_batch_tokens=5 * LENGTH), Checkpoint(mlp_chunk_length=5)],
    ids=["plain", "pair by pair", "two pairs and one", "checkpoint"],
)
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("documents", [WHOLE, DOCUMENTS], ids=["whole", "documents"])
@pytest.mark.parametrize(("kind", "tied"), [("llama-2", True), ("llama-2", False), ("gpt2", True)])
def test_loss_and_gradient_are_those_of_whole_logits_in_two_directions(
    kind: str, tied: bool, documents: list[list[int]], weight: float, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "LOGIT_TOKENS", 7)
    model, theirs = (network(kind, word, tie_word_embeddings=tied) for word in ("elongate", "sdpa"))
    ours = LanguageModel(model, kind)
    (example,) = MeetInTheMiddle(agreement=weight).examples(batch(documents), ours)
    loss = memory.prepare(ours, LENGTH).backward(ours, example)
    expected = dense(theirs, documents, weight)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for (name, mine), reference in zip(model.named_parameters(), theirs.parameters(), strict=True):
        error = (mine.grad - reference.grad).norm() / reference.grad.norm()  # type: ignore[operator]  # gradients are there
        assert error <= 1e-12, f"{name} is off by {error:.1e}"


def test_both_ways_of_reading_a_palindrome_agree_in_its_middle_and_only_there() -> None:
    half = TOKENS[:1, :7]
    tokens = np.concatenate([half, [[5]], half[:, ::-1]], axis=1)
    model = LanguageModel(network("llama-2", "elongate"), "llama-2")
    (example,) = MeetInTheMiddle(agreement=0.1).examples(Batch(tokens, None, None), model)
    assert_array_equal(example.inputs[0], example.inputs[1])
    with torch.no_grad():
        forward, backward = states_of_both(model.hidden(example.inputs), example.scored)
        distances = [float(summed_disagreement(f[None], b[None], model.head)) for f, b in zip(forward, backward, strict=True)]
    middle = distances.pop(6)  # token 7 of 0 … 14; the first that both tell is token 1
    assert middle == pytest.approx(0, abs=1e-12)
    assert min(distances) > 1e-3


def test_the_distance_is_none_for_equal_states_all_for_certain_and_different_ones_and_the_same_both_ways() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(600, 8, dtype=torch.float64, generator=draw, requires_grad=True) for _ in range(2))
    head = (torch.randn(31, 8, dtype=torch.float64, generator=draw), torch.randn(31, dtype=torch.float64, generator=draw))
    nothing = summed_disagreement(one, one, head)
    assert nothing == 0
    assert_close(torch.autograd.grad(nothing, one)[0], torch.zeros(600, 8, dtype=torch.float64))
    assert_close(summed_disagreement(one, other, head), summed_disagreement(other, one, head), rtol=1e-12, atol=0)
    certain = torch.eye(8, dtype=torch.float64) * 1000
    assert_close(summed_disagreement(certain, certain.roll(1, 0), (torch.eye(8, dtype=torch.float64), None)), torch.tensor(8.0).double())


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_distance_and_its_gradient_are_those_of_whole_logits(with_bias: bool, trained: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    states = [torch.randn(300, 8, dtype=torch.float64, generator=draw, requires_grad=True) for _ in range(2)]
    weight = torch.randn(41, 8, dtype=torch.float64, generator=draw).requires_grad_(trained)
    bias = torch.randn(41, dtype=torch.float64, generator=draw).requires_grad_(trained) if with_bias else None
    leaves = [leaf for leaf in (*states, weight, bias) if leaf is not None and leaf.requires_grad]
    chances = [F.linear(x, weight, bias).softmax(-1) for x in states]
    expected = (chances[0] - chances[1]).abs().sum() / 2
    found = summed_disagreement(states[0], states[1], (weight, bias))
    assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, reference in zip(torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * expected, leaves), strict=True):
        assert_close(mine, reference, rtol=1e-11, atol=1e-12)


def test_the_distance_in_bf16_is_that_of_fp32_to_its_precision() -> None:
    draw = torch.Generator().manual_seed(1)
    states = [torch.randn(700, 16, generator=draw, requires_grad=True) for _ in range(2)]
    weight = torch.randn(300, 16, generator=draw, requires_grad=True)
    leaves = [*states, weight]
    exact, rounded = (summed_disagreement(states[0], states[1], (weight, None), precision) for precision in ("fp32", "bf16"))
    assert_close(rounded, exact, rtol=5e-3, atol=0)
    for whole, half in zip(torch.autograd.grad(exact, leaves), torch.autograd.grad(rounded, leaves), strict=True):
        # Where the two chances are all but equal, rounding may turn the sign of their difference.
        assert F.cosine_similarity(whole.flatten(), half.flatten(), dim=0) > 0.99


def test_positions_of_the_text_turned_round_keep_their_distances() -> None:
    isolated = np.array([[0, 0, 1, 2, 0, 1]])
    starts = np.array([[True, True, False, False, True, False, False]])
    assert_array_equal(reversed_positions(isolated, starts), [[0, 1, 2, 0, 1, 2]])  # the last token is in the third document
    starts[0, -1] = True
    assert_array_equal(reversed_positions(isolated, starts), [[0, 0, 1, 0, 1, 2]])  # the last token is a document of its own
    sampled = np.array([[0, 1, 5, 6, 9]])
    assert_array_equal(reversed_positions(sampled, np.zeros((1, 6), dtype=bool)), [[0, 1, 4, 5, 9]])


def test_a_pair_is_never_parted() -> None:
    (example,) = MeetInTheMiddle(agreement=0.1).examples(batch(WHOLE), LanguageModel(network("llama-2", "elongate"), "llama-2"))
    parts: dict[int, list[Example]] = {rows: list(example.parts(rows)) for rows in (1, 3, 6)}
    assert {rows: [len(part.inputs) for part in found] for rows, found in parts.items()} == {1: [2, 2, 2], 3: [2, 2, 2], 6: [6]}
    for part in parts[1]:
        whole = torch.cat([part.inputs[0], part.targets[0, -1:]])
        assert_array_equal(torch.cat([part.inputs[1], part.targets[1, -1:]]), whole.flip(0))


def test_on_the_autoencoder_it_is_the_mixture_of_its_two_objectives() -> None:
    tiny = {"original_length": 16, "block_length": 4, "latents_per_block": 4, "dim": 16, "num_heads": 2, "mlp_dim": 24}
    model = BidirectionalAutoencoder(**tiny).build(VOCAB, seed=0)
    model.network.double()
    model.mask_token = VOCAB - 1
    texts = Batch(np.random.default_rng(0).integers(VOCAB, size=(ROWS, 17)), None, None)

    def computed(objective: Objective) -> tuple[float, list[Tensor]]:
        model.network.zero_grad()
        loss = sum(Plain(micro_batch_tokens=20).backward(model, example) for example in objective.examples(texts, model))
        # The decoder alone never meets what reconstruction teaches, and the other way round.
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
        assert (mixed - expected).norm() <= 1e-6 * expected.norm()  # its norms are float32, and round what is scaled otherwise


def test_a_job_on_the_autoencoder_holds_the_mixture_whatever_the_memory() -> None:
    words = ["model=bidirectional_autoencoder", "objective=bidirectional", "objective.reconstruction_share=0.25", "memory=auto"]
    job = build_job(*composed(*words))
    assert job.objective == Mixture(reconstruction_share=0.25)
    with pytest.raises(ConfigError, match=r"context.target_length=1000: is not a multiple of the block length"):
        build_job(*composed(*words, "context.target_length=1000"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"agreement": -0.1}, "agreement=-0.1: must be at least 0"),
        ({"reconstruction_share": 1.0}, r"reconstruction_share=1.0: must be in \(0, 1\)"),
    ],
)
def test_fields_out_of_range_are_refused_in_one_line(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Bidirectional(**fields)


def test_what_would_be_ignored_or_is_nothing_new_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"objective=bidirectional: has no effect on model=bert, whose own objective uses both directions; use objective=masked",
    ):
        Bidirectional().check(frozenset({"bidirectional", "masked"}), "bert")
    with pytest.raises(ConfigError, match=r"objective.reconstruction_share=0.3: has no effect on model=gpt"):
        Bidirectional(reconstruction_share=0.3).check(frozenset({"causal"}), "gpt")
    with pytest.raises(ConfigError, match=r"objective.agreement=0.3: has no effect on model=bidirectional_autoencoder"):
        Bidirectional(agreement=0.3).check(frozenset({"autoencoder"}), "bidirectional_autoencoder")


@pytest.mark.parametrize("memory", ["stream", "auto"])
def test_plans_that_may_part_a_sequence_are_refused(memory: str, build_tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=f"memory={memory}: cannot work with objective=bidirectional.*use memory=checkpoint"):
        build_tiny("objective=bidirectional", f"memory={memory}")


@pytest.mark.parametrize("more", [[], ["memory=checkpoint", "data.isolate_documents=true", "precision=bf16"]], ids=["plain", "isolated"])
def test_a_run_learns_both_directions_and_leaves_a_model_that_is_read_forwards(
    more: list[str], build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path
) -> None:
    from elongate.training.run import run
    from elongate.training.run_directory import RunDirectory

    small = ["data=text", f"data.path={text_folder}", "context.curriculum.base.steps=2", "evaluation=[curve,needle]"]
    small += [f"context.curriculum.base.directory={tmp_path}/bases"]
    (tmp_path / "run").mkdir()
    directory = RunDirectory(tmp_path / "run")
    job = build_tiny(*small, "objective=bidirectional", *more)
    results = run(job, directory)
    assert results["strategy"]["objective"] == "bidirectional"
    assert results["budget"]["tokens"] == 3 * 256  # of text, each read twice
    assert results["curve"]["table"]["after"]
