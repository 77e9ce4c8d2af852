"""hypothesis: a configuration of random choices and values runs or is refused in one line, and a refusal leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elongate.data.tokenizer.byte import ByteTokenizer
from tests.random_configurations import Case, cases

SETTINGS = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, a checkpoint and a tokenizer that every configuration can name."""
    folder = tmp_path_factory.mktemp("files")
    texts = ["".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(60)) for i in range(8)]
    lines = "".join(json.dumps({"text": text, "question": "why?", "answer": "so"}) + "\n" for text in texts)
    (folder / "text.jsonl").write_text(lines)
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_text(lines)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=258, max_position_embeddings=32, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    ByteTokenizer().with_mask().save(folder / "llama")
    return folder


def check(case: Case, files: Path, runs: bool) -> str:
    folder = Path(tempfile.mkdtemp(dir=files))
    try:
        outcome = case.outcome(folder, runs)
        assert {path.name for path in folder.iterdir()} == {"run"}
        return outcome
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@settings(SETTINGS, max_examples=5)
@given(case=cases())
def test_a_random_configuration_is_built_or_refused(case: Case, files: Path) -> None:
    check(case, files, runs=False)


@pytest.mark.grid
@settings(SETTINGS, max_examples=200)
@given(case=cases(), runs=st.integers(0, 7))
def test_a_random_configuration_runs_or_is_refused(case: Case, runs: int, files: Path) -> None:
    check(case, files, runs == 0)
