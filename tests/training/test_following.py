"""Evaluations during the training change no weight; the best checkpoint is exported; early stopping repeats its decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.interrupts import SignalAfter
from tests.training.program import without_times

from elongate.data.sequences import held_out
from elongate.data.tokens import load_corpus
from elongate.errors import ConfigError, Stopped
from elongate.models.pretrained import Pretrained
from elongate.report.page import followed_sentence

Start = Any
STAGES = ["context/curriculum=progressive", "steps=8", "context/attention=window"]
# A table of positions and dropout; frequencies that differ between stages.
MODELS = [["model=gpt2", "context=interpolate"], ["context=yarn"]]
FOLLOW = ["training.evaluate_steps=3", "training.evaluate=[curve]"]
# So large a rate makes the held-out loss worse for a while, after step 2.
DIVERGING = ["context/curriculum=fixed", "steps=9", "optimizer.lr=0.1", "training.evaluate_steps=1", "training.evaluate=[curve]"]
STOPPING = [*DIVERGING, "training.keep_best=curve", "training.stop_after=2", "training.checkpoint_steps=100"]


def weights_of(directory: Any) -> bytes:
    return (directory.model / "model.safetensors").read_bytes()


def stopped(start: Start, name: str, looks: int, *overrides: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(looks))
        with pytest.raises(Stopped):
            start(name, *overrides)


@pytest.mark.parametrize("model", MODELS, ids=["gpt2", "gpt"])
def test_evaluations_change_no_weight_bit_also_after_resuming(model: list[str], start: Start) -> None:
    words, name = [*STAGES, *model], model[-1]
    plain, _ = start(f"plain-{name}", *words)
    stopped(start, f"followed-{name}", 5, *words, *FOLLOW)
    followed, results = start(f"followed-{name}", *words, *FOLLOW)
    assert weights_of(followed) == weights_of(plain)
    first = followed.read_metrics()[2]["step"]  # two steps of base
    assert results["followed"]["steps"] == [first + 2, first + 5, first + 7]
    ours = [{key: value for key, value in line.items() if key != "held_out_curve"} for line in followed.read_metrics()]
    assert without_times(ours) == without_times(plain.read_metrics())


def test_the_best_checkpoint_is_exported_and_early_stopping_repeats_its_decision(start: Start) -> None:
    directory, results = start("stopping", *STOPPING)
    followed = results["followed"]
    figures = followed["figures"]["curve"]
    best = int(np.argmin(figures))
    assert best == 1, "neither the first nor the last"
    assert followed["best_step"] == followed["steps"][best]
    assert followed["stopped_early"]
    assert followed["steps"] == list(range(1, best + 4))
    assert results["budget"]["steps"] == results["stages"][0]["steps"] == best + 3
    assert f"stopped early, after step {best + 3} of 9" in str(followed_sentence(results))
    # The exported weights have the best figure, computed here from the logits.
    job = start.job(*STOPPING)
    tokenizer = job.tokenizer.fit(job.data)
    documents = load_corpus(job.data, tokenizer).validation
    tokens = torch.from_numpy(held_out(documents, 128, 2).tokens)
    network = Pretrained(source=str(directory.model)).build(tokenizer.vocab_size, 0).network.eval()
    with torch.no_grad():
        logits = network(input_ids=tokens).logits.double()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(min(figures), rel=1e-5)
    stopped(start, "resumed", best + 1, *STOPPING)
    again, repeated = start("resumed", *STOPPING)
    assert weights_of(again) == weights_of(directory)
    assert repeated["followed"] == followed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.keep_best=curve"], "training.keep_best=curve: is not measured during the training"),
        (["training.evaluate=[curve]"], "is measured at no step; add training.evaluate_steps=100"),
        (["training.evaluate_steps=2"], "training.evaluate_steps=2: names no evaluation to measure"),
        (["training.evaluate_steps=0", "training.evaluate=[curve]"], "training.evaluate_steps=0: must be at least 1"),
        ([*FOLLOW, "training.keep_best=needle"], "training.keep_best=needle: is not measured during the training, only curve"),
        ([*FOLLOW, "training.stop_after=2"], "training.stop_after=2: needs a figure .* add training.keep_best=curve"),
        ([*FOLLOW, "evaluation=[]"], r"training.evaluate=curve: is not an evaluation of this run; add it to evaluation=\[curve\]"),
        (
            ["training.evaluate_steps=2", "training.evaluate=[needle]", "evaluation=[needle]"],
            "training.evaluate=needle: has no figure that can be followed",
        ),
    ],
)
def test_what_cannot_be_followed_is_one_line(words: list[str], line: str, start: Start) -> None:
    with pytest.raises(ConfigError, match=line):
        start.job(*words)
