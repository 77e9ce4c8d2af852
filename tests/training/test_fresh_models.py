"""Whole tiny runs of every fresh model with its defaults: base, extension, curve, needle, and the export in plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import evaluated
from tests.training.conftest import Workshop
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.planner import free_memory, planner
from elongate.models.pretrained import Pretrained
from elongate.training.plan import plan

WORDS = ["gpt2", "bert", "modernbert"]


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_a_run_of_every_fresh_model(word: str, start: Workshop, tmp_path: Path) -> None:
    directory, results = start(word, f"model={word}", "evaluation=[curve,needle]")

    masked = word != "gpt2"
    assert results["strategy"]["objective"] == ("masked" if masked else "causal")
    assert results["strategy"]["position"] == ("yarn" if word == "modernbert" else "interpolate")
    assert [line["length"] for line in directory.read_metrics()] == [32, 32, 128, 128, 128]
    # A model that reads both sides is measured up to the target length, any other up to four times that.
    assert results["curve"]["length"] == (128 if masked else 512)
    assert results["needle"]["lengths"] == ([64, 128] if masked else [64, 128, 256])
    edges = results["curve"]["table"]["edges"]
    for row, end in (("before", 32), ("untuned", 128), ("after", 128)):
        measured = [loss is not None for loss in results["curve"]["table"][row]["loss"]]
        # Computed positions have no end; a table has one.
        assert measured == [word == "modernbert" or stop <= end for stop in edges[1:]]

    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    opened = auto.from_pretrained(directory.model)
    ours = Pretrained(source=str(directory.model)).build(opened.config.vocab_size, seed=0)
    tokens = torch.randint(256, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = ours.logits(ours.hidden(tokens))
        assert_close(opened(tokens).logits, logits, rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(directory.model)
    assert tokenizer.mask_token_id == (257 if masked else None)
    assert len(tokenizer) == opened.config.vocab_size
    # evaluate.py gives the same figures.
    again = evaluated(directory.path, tmp_path / "again")
    assert again["curve"]["table"]["after"] == results["curve"]["table"]["after"]
    assert again["needle"]["after"] == results["needle"]["after"]


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_every_model_has_a_memory_plan(word: str, start: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    # Little free memory, because the planner makes dry runs up to the longest length that fits.
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 16 * 2**20)
    monkeypatch.setattr(planner, "_KINDS", (Plain(), Checkpoint(micro_batch_tokens=512, mlp_chunk_length=512)))
    printed = plan(start.job(f"model={word}", "model.num_layers=1", "evaluation=[]"))
    assert "memory=plain" in printed
    assert "memory=checkpoint" in printed
    assert "recommended: memory=" in printed
    assert ("objective=masked has other targets" in printed) == (word in ("bert", "modernbert"))


@pytest.mark.slow
def test_masked_runs_with_isolated_documents_and_every_memory_plan_finish(start: Workshop) -> None:
    losses = {}
    for name, more in {"plain": [], "parts": ["memory.micro_batch_tokens=1"], "checkpoint": ["memory=checkpoint"]}.items():
        _, results = start(name, "model=bert", "model.dropout=0", "evaluation=[]", "data.isolate_documents=true", *more)
        losses[name] = results["stages"][0]["loss"]
    assert losses["parts"] == pytest.approx(losses["plain"], abs=1e-5)
    assert losses["checkpoint"] == pytest.approx(losses["plain"], abs=1e-5)
