"""Meet in the Middle compared with transformers' own attention and whole logits, in float64."""

from __future__ import annotations

from itertools import pairwise as neighbours

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from tests.covering import all_pairs
from tests.networks import VOCAB, network
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from elongate.data.sequences import Batch
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.models.language_model import LanguageModel
from elongate.objectives import agreement
from elongate.objectives.agreement import states_of_both, summed_disagreement
from elongate.objectives.meet_in_the_middle import MeetInTheMiddle, reversed_positions
from elongate.objectives.objective import Example

ROWS, LENGTH = 3, 14
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(ROWS, LENGTH + 1))
DOCUMENTS = [[15], [1, 6, 8], [4, 10, 1]]  # lengths, row by row; the last token of the last row is only a target
WHOLE = [[15]] * ROWS


def batch(documents: list[list[int]]) -> Batch:
    if documents == WHOLE:
        return Batch(TOKENS, None, None)
    positions = np.stack([np.concatenate([np.arange(n) for n in row]) for row in documents])
    return Batch(TOKENS, positions[:, :-1], positions == 0)


def dense(model: PreTrainedModel, documents: list[list[int]], weight: float) -> Tensor:
    """The loss from whole logits, for each document and direction."""
    losses, distances = [], []
    for row, lengths in zip(torch.from_numpy(TOKENS), documents, strict=True):
        for first, last in neighbours(np.cumsum([0, *lengths])):
            text = row[first:last]
            if len(text) < 2:
                continue
            onward, back = (model(input_ids=x[None, :-1]).logits[0] for x in (text, text.flip(0)))
            losses += [F.cross_entropy(onward, text[1:], reduction="none"), F.cross_entropy(back, text.flip(0)[1:], reduction="none")]
            # Tokens 1 … n − 2 of the document, once in either order.
            distances.append((onward[:-1].softmax(-1) - back.flip(0)[1:].softmax(-1)).abs().sum(-1) / 2)
    return torch.cat(losses).mean() + weight * torch.cat(distances).mean()


KINDS = [("llama-2", True), ("llama-2", False), ("gpt2", True)]  # with the head tied or not
MEMORY = {
    "plain": Plain(),
    "pair by pair": Plain(micro_batch_tokens=1),
    "two pairs and one": Plain(micro_batch_tokens=5 * LENGTH),
    "checkpoint": Checkpoint(mlp_chunk_length=5),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "isolated", "weight", "memory"), all_pairs(KINDS, [False, True], [0.0, 0.7], MEMORY))
def test_loss_and_gradient_are_those_of_whole_logits_in_two_directions(
    kind: tuple[str, bool], isolated: bool, weight: float, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (word, tied), documents = kind, DOCUMENTS if isolated else WHOLE
    monkeypatch.setattr(agreement, "LOGIT_TOKENS", 7)
    model, theirs = (network(word, attention, tie_word_embeddings=tied) for attention in ("elongate", "sdpa"))
    ours = LanguageModel(model, word)
    (example,) = MeetInTheMiddle(agreement=weight).examples(batch(documents), ours)
    loss = MEMORY[memory].prepare(ours, LENGTH).backward(ours, example)
    expected = dense(theirs, documents, weight)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for (name, mine), reference in zip(model.named_parameters(), theirs.parameters(), strict=True):
        error = (mine.grad - reference.grad).norm() / reference.grad.norm()  # type: ignore[operator]  # gradients are there
        assert error <= 1e-12, f"{name} is off by {error:.1e}"


def test_both_directions_of_a_palindrome_agree_only_in_its_middle() -> None:
    half = TOKENS[:1, :7]
    tokens = np.concatenate([half, [[5]], half[:, ::-1]], axis=1)
    model = LanguageModel(network("llama-2", "elongate"), "llama-2")
    (example,) = MeetInTheMiddle(agreement=0.1).examples(Batch(tokens, None, None), model)
    assert_array_equal(example.inputs[0], example.inputs[1])
    with torch.no_grad():
        forward, backward = states_of_both(model.hidden(example.inputs), example.scored)
        distances = [float(summed_disagreement(f[None], b[None], model.head)) for f, b in zip(forward, backward, strict=True)]
    middle = distances.pop(6)  # token 7 of 0 ... 14; the first that both predict is token 1
    assert middle == pytest.approx(0, abs=1e-12)
    assert min(distances) > 1e-3


def test_reversed_positions_keep_their_distances() -> None:
    isolated = np.array([[0, 0, 1, 2, 0, 1]])
    starts = np.array([[True, True, False, False, True, False, False]])
    assert_array_equal(reversed_positions(isolated, starts), [[0, 1, 2, 0, 1, 2]])  # the last token is in the third document
    starts[0, -1] = True
    assert_array_equal(reversed_positions(isolated, starts), [[0, 0, 1, 0, 1, 2]])  # the last token is a document of its own
    sampled = np.array([[0, 1, 5, 6, 9]])
    assert_array_equal(reversed_positions(sampled, np.zeros((1, 6), dtype=bool)), [[0, 1, 4, 5, 9]])


def test_the_two_rows_of_a_pair_stay_together() -> None:
    (example,) = MeetInTheMiddle(agreement=0.1).examples(batch(WHOLE), LanguageModel(network("llama-2", "elongate"), "llama-2"))
    parts: dict[int, list[Example]] = {rows: list(example.parts(rows)) for rows in (1, 3, 6)}
    assert {rows: [len(part.inputs) for part in found] for rows, found in parts.items()} == {1: [2, 2, 2], 3: [2, 2, 2], 6: [6]}
    for part in parts[1]:
        whole = torch.cat([part.inputs[0], part.targets[0, -1:]])
        assert_array_equal(torch.cat([part.inputs[1], part.targets[1, -1:]]), whole.flip(0))
