"""The model card of an export, and runs that are evaluated from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from tests.conftest import evaluated
from tests.models.test_derived_rope import phi3
from tests.training.conftest import Workshop

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.models.gpt import Gpt
from elongate.models.pretrained import Pretrained
from elongate.training.model_card import card

CARD = "---\nlicense: other\nlicense_name: tiny\nlanguage: en\n---\n# Tiny\n"

# -- runs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_phi3_is_evaluated_as_it_was_measured_and_has_a_model_card(start: Workshop) -> None:
    folder = start.folder / "phi-tiny"
    torch.manual_seed(0)
    phi3().to(torch.bfloat16).save_pretrained(folder)
    ByteTokenizer().save(folder)
    (folder / "README.md").write_text(CARD)
    chosen = ["model=pretrained", f"model.source={folder}", "context=none", "context.target_length=128"]
    directory, results = start("phi", *chosen)
    again = evaluated(directory.path, start.folder / "again")
    for name in ("loss", "standard_error"):
        assert again["curve"]["table"]["after"][name] == pytest.approx(results["curve"]["table"]["after"][name], rel=1e-9)
    assert results["export"]["verified"]["attention_factor_error"] < 1e-6

    text = (directory.model / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "base_model": "phi-tiny",
        "license": "other",
        "license_name": "tiny",
        "language": "en",
        "pipeline_tag": "text-generation",
        "tags": ["elongate", "long-context", "none"],
    }
    assert str(start.folder) not in text
    for line in (
        "from 64 to 128 tokens",
        "rounded to bfloat16",
        "AutoModelForCausalLM",
        "| before the extension | this model |",
        "applies: tiny",
    ):
        assert line in body


@pytest.mark.slow
def test_the_card_names_what_transformers_cannot_express(start: Workshop) -> None:
    window, _ = start("window", "context=window", "evaluation=[]")
    assert "cannot express the attention `window`" in (window.model / "README.md").read_text()
    alibi, results = start("alibi", "context=alibi", "evaluation=[]")
    assert results["export"]["verified"]["logits_error"] < 1e-5
    assert "cannot express the position `alibi` and does not open this folder" in (alibi.model / "README.md").read_text()


RESULTS: dict[str, Any] = {
    "strategy": {
        **dict.fromkeys(("attention", "evaluation_attention"), "full"),
        "model": "pretrained",
        "context": "longrope",
        "position": "longrope",
        "objective": "causal",
        "curriculum": "fixed",
        "sampling": None,
        "tuning": "lora",
        "original_length": 4096,
        "target_length": 16384,
        "proof": {},
    },
    "export": {
        "dtype": "bfloat16",
        "verified": {
            "transformers": "5.23.0",
            "weights": "compared",
            "lengths": [4096, 16384],
            "frequency_error": 0.0,
            "attention_factor_error": 0.0,
            "logits_error": 1e-7,
        },
    },
    "provenance": {"versions": {"elongate": "0.1.0"}, "device": "cpu", "date": "2026-11-27T12:00:00+00:00"},
}


def test_the_card_of_a_hub_checkpoint() -> None:
    text = card(Pretrained(source="owner/name"), {}, RESULTS)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "base_model": "owner/name",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["elongate", "long-context", "longrope"],
    }
    assert body.startswith("\n# owner/name, extended to 16,384 tokens\n")
    for part in ("owner/name states no licence", "pass a text in one call", "weight files was read again", "rounded to bfloat16"):
        assert part in body
    assert "Loss by position" not in body  # nothing was measured


def test_the_card_of_a_model_from_random_weights_names_no_base() -> None:
    text = card(Gpt(), {}, RESULTS)
    assert "base_model" not in text
    assert "Trained from random weights" in text
