"""Tasks of the lm-evaluation-harness: the figures are those of the harness's own model on the same checkpoint, and of our own evaluations."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.conftest import composed, evaluated
from tokenizers import Tokenizer as TokenizerFile
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from elongate.build import build_job
from elongate.context.attention.full import Full
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError, Stopped
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.lm_eval import DRAWS, LmEval
from elongate.evaluation.perplexity import Perplexity
from elongate.evaluation.samples import Samples
from elongate.evaluation.text.classification import Classification
from elongate.models.pretrained import Pretrained
from elongate.objectives.fill_in import FillIn
from elongate.objectives.reading import LeftToRight, Reading

WORDS = "the sky sea is was blue red deep wide and stone rain wind falls over under every old grey hill slowly turns to night".split()
LENGTH = 64  # tokens that the checkpoints hold
MULTIPLE_CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")],
}
ROLLING: dict[str, Any] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": metric} for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
}
WRITTEN: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["e"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def sentence(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def task(folder: Path, name: str, documents: list[dict[str, Any]], **settings: Any) -> str:
    """The path of a task of the harness on these documents."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    where = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, "metadata": {"version": 1.0}} | where | settings))
    return str(folder / f"{name}.yaml")


def choices(folder: Path, **settings: Any) -> str:
    documents = [
        {
            "question": sentence(i, 3 + 9 * i),  # some are longer than the model can hold
            "choices": [sentence(100 + i, 1), sentence(200 + i, 1), sentence(300 + i, 4)],
            "gold": i % 3,
        }
        for i in range(12)
    ]
    documents[3]["question"] = ""  # follows on nothing
    documents[4]["question"] += "  "  # the space belongs to what follows
    return task(folder, "choices", documents, **MULTIPLE_CHOICE | settings)


def rolling(folder: Path, *lengths: int) -> str:
    return task(folder, "rolling", [{"text": sentence(i, length)} for i, length in enumerate(lengths)], **ROLLING)


def written(folder: Path, *answers: str, **settings: Any) -> str:
    documents = [{"question": sentence(i, 4 + 10 * i), "answer": answers[i] if i < len(answers) else "none"} for i in range(10)]
    return task(folder, "written", documents, **WRITTEN | settings)


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


def quiet(text: str) -> None:
    pass


def measured(evaluation: LmEval, model: Any, setting: Setting) -> dict[str, Any]:
    header, row = evaluation.header(setting), evaluation.measure(model, setting, quiet)
    json.dumps([header, row], allow_nan=False)
    return row


def harness(checkpoint: Path, tasks: list[str], num_fewshot: int | None = None, limit: int | None = None) -> dict[str, Any]:
    """What the harness says of the folder by itself."""
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


@pytest.mark.filterwarnings("ignore")  # the harness's own model warns of much
@pytest.mark.slow
@pytest.mark.parametrize(("num_fewshot", "limit"), [(None, None), (2, 7)])
def test_every_figure_is_that_of_the_harnesss_own_model(checkpoint: Path, tmp_path: Path, num_fewshot: int | None, limit: int | None) -> None:
    model, setting = opened(checkpoint)
    says = written(tmp_path)
    # Half of the answers are what the model writes, so that it is right at times.
    setting_of_its_own = replace(setting, samples=Samples().part("lm_eval", "after"))
    evaluation = LmEval(tasks=[says], num_fewshot=num_fewshot)
    measured(evaluation, model, setting_of_its_own)
    asked = evaluation._requests()["generate_until"]
    from elongate.evaluation.harness.model import HarnessModel

    texts = HarnessModel(model, setting_of_its_own, quiet).generate_until(asked)
    assert len(set(texts)) > 3
    says = written(tmp_path, *texts[:5])
    tasks = [choices(tmp_path), rolling(tmp_path, 5, 30, 31, 90, 200), says]
    ours = measured(LmEval(tasks=tasks, num_fewshot=num_fewshot, limit=limit), model, setting)
    agree(ours, harness(checkpoint, tasks, num_fewshot, limit))
    print(ours)
    assert 0 < ours["written"]["exact_match"] < 1
    assert 0 < ours["choices"]["acc"] < 1
