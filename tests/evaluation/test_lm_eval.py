"""Tasks of the harness: the figures are those of its own model on the same checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.harness_tasks import (
    LENGTH,
    choices,
    measured,
    quiet,
    rolling,
    sentence,
    written,
)
from tokenizers import Tokenizer as TokenizerFile
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from elongate.context.attention.full import Full
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokens import Tokens
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.harness.model import HarnessModel
from elongate.evaluation.lm_eval import DRAWS, LmEval
from elongate.evaluation.measurement.samples import Samples
from elongate.models.pretrained import Pretrained
from elongate.scoring.left_to_right import LeftToRight


def network(kind: str, vocab_size: int) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        made: Any = GPT2LMHeadModel(GPT2Config(**sizes, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2))
    else:
        layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        made = LlamaForCausalLM(LlamaConfig(**sizes, **layers, max_position_embeddings=LENGTH))
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.data *= 8.0  # so that it prefers one token to another
    return made.eval()


@pytest.fixture(params=["gpt2", "llama"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny network with a BPE tokenizer, as transformers saves them."""
    bpe = TokenizerFile(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([sentence(i, 50) for i in range(20)], trainer)
    folder = tmp_path / "checkpoint"
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
    network(request.param, bpe.get_vocab_size()).save_pretrained(folder)
    return folder


def opened(checkpoint: Path, samples: Samples | None = None, target: int = LENGTH) -> tuple[Any, Setting]:
    tokenizer = load_tokenizer(checkpoint)
    model = Pretrained(source=str(checkpoint)).build(tokenizer.vocab_size, 0)
    model.attend(Full(), LENGTH, LENGTH)
    held_out = Tokens(np.zeros(10, dtype=np.uint16), np.array([0, 10]))
    part = (samples or Samples()).part("lm_eval", "after")
    return model, Setting(held_out, tokenizer, LENGTH, target, seed=0, reading=LeftToRight(), samples=part)


def harness(checkpoint: Path, tasks: list[str], num_fewshot: int | None = None, limit: int | None = None) -> dict[str, Any]:
    """The results of the harness for the same folder, without this project."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=1, max_length=LENGTH)
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(model, tasks=tasks, task_manager=manager, num_fewshot=num_fewshot, limit=limit, bootstrap_iters=DRAWS)
    return found["results"]


def agree(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, metrics in theirs.items():
        assert ours[name]["n"] == metrics["sample_len"]
        figures = {key.partition(",")[0] for key in metrics if key.endswith(",none")} - {"alias"}
        for figure in (one for one in figures if not one.endswith("_stderr")):
            assert ours[name][figure] == pytest.approx(metrics[f"{figure},none"], rel=1e-4, abs=1e-4), figure
            error = metrics[f"{figure}_stderr,none"]
            expected = None if error == "N/A" else pytest.approx(error, rel=1e-4, abs=1e-4)
            assert ours[name][f"{figure}_standard_error"] == expected


def texts_of(model: Any, setting: Setting, path: str, num_fewshot: int | None) -> list[str]:
    """The texts that the model generates in that task, by document."""
    samples = Samples()
    given = replace(setting, samples=samples.part("lm_eval", "before"))
    measured(LmEval(tasks=[path], num_fewshot=num_fewshot), model, given)
    found = {record["document"]: record["written"] for record in samples._records.values() if "written" in record}
    return [found[i] for i in sorted(found)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's own model gives many warnings
@pytest.mark.parametrize(("num_fewshot", "limit"), [(None, None), (2, 7)])
def test_every_figure_agrees_with_the_harness(checkpoint: Path, tmp_path: Path, num_fewshot: int | None, limit: int | None) -> None:
    model, setting = opened(checkpoint)
    texts = texts_of(model, setting, written(tmp_path), num_fewshot)
    assert len(set(texts)) > 3
    # Use texts that the model generates as some of the answers, so that some are right.
    tasks = [choices(tmp_path), rolling(tmp_path, 5, 30, 31, 90, 200), written(tmp_path, *texts[:4])]
    ours = measured(LmEval(tasks=tasks, num_fewshot=num_fewshot, limit=limit), model, setting)
    agree(ours, harness(checkpoint, tasks, num_fewshot, limit))
    assert 0 < ours["choices"]["acc"] < 1
    assert 0 < ours["written"]["exact_match"] < 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_answer_agrees_with_the_harness(checkpoint: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    model, setting = opened(checkpoint)
    evaluation = LmEval(tasks=[choices(tmp_path), rolling(tmp_path, 0, 1, 40, 100, 300), written(tmp_path)])
    ours, theirs = HarnessModel(model, setting, quiet), HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", max_length=LENGTH)
    requests = evaluation._requests(limit=None)
    assert ours.generate_until(requests["generate_until"]) == theirs.generate_until(requests["generate_until"])
    rolled = theirs.loglikelihood_rolling(requests["loglikelihood_rolling"])
    assert ours.loglikelihood_rolling(requests["loglikelihood_rolling"]) == pytest.approx(rolled, rel=1e-5, abs=1e-4)
    found, expected = (np.array(one.loglikelihood(requests["loglikelihood"])) for one in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert ours.unread == set()
