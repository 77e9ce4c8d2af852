"""Tasks of the lm-evaluation-harness as files, and settings to measure them in."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import Tokens
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.lm_eval import LmEval
from elongate.evaluation.measurement.samples import Samples
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

WORDS = ["the", "sky", "sea", "was", "blue", "red", "deep", "and", "stone", "rain", "falls", "over", "every", "old", "hill", "turns"]
LENGTH = 64  # tokens that the checkpoints can read
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
PERPLEXITY: dict[str, Any] = {
    "output_type": "loglikelihood",
    "doc_to_text": "the ",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
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
            "question": sentence(i, 3 + 9 * i),  # some are longer than the model can read
            "choices": [sentence(100 + i, 1), sentence(200 + i, 1), sentence(300 + i, 4)],
            "gold": i % 3,
        }
        for i in range(12)
    ]
    documents[3]["question"] = ""  # an empty context
    documents[4]["question"] += "  "  # the harness moves the spaces to the continuation
    return task(folder, "choices", documents, **MULTIPLE_CHOICE | settings)


def rolling(folder: Path, *lengths: int) -> str:
    return task(folder, "rolling", [{"text": sentence(i, length)} for i, length in enumerate(lengths)], **ROLLING)


def written(folder: Path, *answers: str, **settings: Any) -> str:
    documents = [{"question": sentence(i, 4 + 10 * i), "answer": answers[i] if i < len(answers) else "none"} for i in range(10)]
    return task(folder, "written", documents, **WRITTEN | settings)


def of_bytes(documents: list[list[int]] | None = None, reading: Scorer | None = None, samples: Samples | None = None) -> Setting:
    flat = [token for document in documents or [[0] * 10] for token in document]
    ends = np.cumsum([0, *map(len, documents or [[0] * 10])])
    part = (samples or Samples()).part("lm_eval", "after")
    return Setting(Tokens(np.array(flat, dtype=np.uint16), ends), ByteTokenizer(), 32, 128, 0, reading or LeftToRight(), part)


def quiet(text: str) -> None:
    pass


def measured(evaluation: LmEval, model: Any, setting: Setting) -> dict[str, Any]:
    header, row = evaluation.header(setting), evaluation.measure(model, setting, quiet)
    json.dumps([header, row], allow_nan=False)
    return row
