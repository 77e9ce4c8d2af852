"""Run directories as the training loop writes them, with figures like those of the default run. They depend only on the arguments."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from elongate.evaluation.context_gain import ContextGain
from elongate.evaluation.curve import Curve
from elongate.evaluation.evaluation import Evaluation
from elongate.evaluation.gate import Gate
from elongate.evaluation.lm_eval import LmEval
from elongate.evaluation.longppl import LongPPL
from elongate.evaluation.needle import Needle
from elongate.evaluation.perplexity import Perplexity
from elongate.evaluation.pseudo_perplexity import PseudoPerplexity
from elongate.evaluation.retrieval import Retrieval
from elongate.evaluation.text.question_answering import QuestionAnswering
from elongate.evaluation.text.translation import Translation

EVALUATIONS: tuple[Evaluation, ...] = (
    Curve(),
    Needle(),
    Perplexity(),
    ContextGain(),
    PseudoPerplexity(),
    LongPPL(),
    Retrieval(),
    QuestionAnswering(path="owner/name", template="{context}"),
    Translation(path="owner/name", template="{context}"),
    LmEval(tasks=["hellaswag"]),
    Gate(),
)

# Mean loss in nats in the bins of the table, as measured on the default data.
EDGES = [0, 64, 256, 512, 1024, 2048, 4096]
BEFORE = [1.964, 1.785, 2.487, 3.218, 3.459, 3.407]
UNTUNED = {
    "pi": [3.430, 3.481, 3.467, 3.395, 3.371, 3.392],
    "ntk": [1.990, 1.838, 1.724, 2.474, 3.425, 3.393],
    "yarn": [2.053, 2.023, 1.990, 1.991, 2.753, 3.166],
    "none": BEFORE,
}
AFTER = {
    "none": [2.005, 1.811, 1.656, 1.658, 1.671, 1.850],
    "pi": [2.327, 2.134, 1.979, 1.961, 2.490, 2.947],
    "ntk": [1.986, 1.792, 1.635, 1.642, 1.735, 2.002],
    "yarn": [1.983, 1.792, 1.633, 1.639, 2.276, 2.939],
}
REACH = {"none": 512, "pi": 256, "ntk": 512, "yarn": 1024}  # tokens that are used after the extension
FINE_EDGES = list(range(0, 4097, 32))


def fake_results(context: str = "yarn", seed: int = 0, shift: float | None = None) -> dict[str, Any]:
    """`shift` is added to every loss after the extension; by default a small draw of the seed."""
    noise = np.random.default_rng(seed)
    shift = float(noise.normal(0, 0.01)) if shift is None else shift
    rows = {"before": BEFORE, "untuned": UNTUNED[context], "after": [loss + shift for loss in AFTER[context]]}
    return {
        "strategy": {
            "model": "gpt",
            "context": context,
            "position": context,
            "attention": "full",
            "curriculum": "extend",
            "original_length": 256,
            "target_length": 1024,
            "factor": 4.0,
            "proof": {
                "rope_parameters": {"rope_type": context, "rope_theta": 10000.0, "factor": 4.0},
                "attention_factor": 1.1386,
                "frequencies": [10000.0 ** (-i / 16) for i in range(16)],
                "frequency_error": 1.2e-8,
                "angle_error": 1.1e-7,
            },
        },
        "budget": {
            "tokens": 491520,
            "steps": 60,
            "seconds": 48.1 + seed,
            "tokens_per_second": 10218.0 - 40 * seed,
            "peak_memory_bytes": 812_000_000 + 1_000_000 * seed,
            "parameters": 771328,
            "trained_parameters": 771328,
            "optimizer_state_bytes": 6_170_000,
            "base": {"tokens": 4915200, "steps": 600, "seconds": 350.2, "path": "runs/bases/gpt-256-1a2b3c4d"},
        },
        "stages": [{"name": "extend", "length": 1024, "steps": 60, "tokens": 491520, "loss": 1.83 + shift}],
        "data": {
            "source": "stdlib",
            "train_tokens": 10900000,
            "validation_tokens": 1200000,
            "consumed_tokens_sha256": f"{seed:02x}" * 32,
        },
        "curve": {
            "length": 4096,
            "original_length": 256,
            "target_length": 1024,
            "n": 45,
            "documents": 45,
            "table": {"edges": EDGES, **{row: fake_row(losses, 0.02) for row, losses in rows.items()}},
            "fine": {"edges": FINE_EDGES, **{row: fake_fine_row(losses, seed) for row, losses in rows.items()}},
        },
        "needle": fake_needle(context, shift),
    }


def fake_row(losses: list[float], error: float) -> dict[str, list[float]]:
    return {"loss": list(losses), "standard_error": [error + 0.004 * i for i in range(len(losses))]}


def fake_fine_row(losses: list[float], seed: int) -> dict[str, list[float]]:
    """The table's losses, interpolated over log2 of the position, with the noise of few tokens a bin."""
    noise = np.random.default_rng(seed).normal(0, 0.04, len(FINE_EDGES) - 1)
    table_middles = [math.log2((a + b) / 2) for a, b in itertools.pairwise(EDGES)]
    middles = [math.log2((a + b) / 2) for a, b in itertools.pairwise(FINE_EDGES)]
    means = np.interp(middles, table_middles, losses) + noise
    return {"loss": means.tolist(), "standard_error": [0.05] * len(middles)}


def fake_needle(context: str, shift: float) -> dict[str, Any]:
    lengths, depths = [256, 512, 1024, 2048], [0.0, 0.25, 0.5, 0.75, 1.0]
    reach = {"before": 256, "after": {"none": 1024, "pi": 600, "ntk": 1500, "yarn": 1200}[context]}
    rows: dict[str, Any] = {}
    for row, limit in reach.items():
        margin = [[3 * math.tanh(2 * math.log2(limit * 1.4 / length)) + depth - shift for depth in depths] for length in lengths]
        rows[row] = {
            "log_probability": [[value - 8 for value in line] for line in margin],
            "margin": margin,
            # So few that the loss decides a comparison.
            "exact_match": [[round(8 / (1 + math.exp(-value))) / 100 for value in line] for line in margin],
        }
        rows[row] |= {f"{measure}_standard_error": [[0.2] * 5 for _ in lengths] for measure in list(rows[row])}
    return {"original_length": 256, "target_length": 1024, "lengths": lengths, "depths": depths, "n": 8, **rows}


def with_reach(results: dict[str, Any]) -> dict[str, Any]:
    """The same results with `context_gain` and `retrieval` measured too, as far as the strategy reaches."""
    reaches = {"before": 256, "after": REACH[results["strategy"]["context"]]}
    header = {"original_length": 256, "target_length": 1024}
    return results | {
        "context_gain": header
        | {"lengths": [128, 256, 512, 1024], "n": 48, "scored": 8, "negligible": 0.01}
        | {row: fake_gain(reach) for row, reach in reaches.items()},
        "retrieval": header
        | {"tasks": ["copy"], "lengths": [256, 512, 1024], "depths": [0.0, 1.0], "n": 20}
        | {"threshold": "ruler", "measures": ["preferred", "exact_match"]}
        | {"copy": {row: fake_retrieval(reach) for row, reach in reaches.items()}},
    }


def fake_gain(reach: int) -> dict[str, Any]:
    gain = [0.2, 0.1, 0.02 if reach > 512 else 0.0, 0.0]
    return {
        "loss": [1.6 + value for value in gain],
        "gain": gain,
        "gain_interval": [[value - 0.01, value + 0.01] for value in gain],
        "effective_context": reach,
        "effective_context_interval": [reach / 2, 1024],
    }


def fake_retrieval(reach: int) -> dict[str, Any]:
    shares = {"preferred": [1.0 if length <= reach else 0.5 for length in (256, 512, 1024)], "exact_match": [0.1, 0.0, 0.0]}
    cost = {"seconds": 2.0, "tokens_per_second": 5000.0, "flops": 3e9, "peak_memory_bytes": 9e8, "seconds_per_right": None}
    return {
        **shares,
        **{f"{measure}_interval": [[max(0.0, share - 0.1), share] for share in of] for measure, of in shares.items()},
        "costs": [cost] * 3,
        "effective_length": {"preferred": reach, "exact_match": 0},
    }


def fake_metrics() -> list[dict[str, Any]]:
    stages = [("base", 256, range(1, 601)), ("extend", 1024, range(601, 661))]
    noise = np.random.default_rng(0).normal(0, 0.04, 661)
    return [
        {
            "step": step,
            "stage": stage,
            "length": length,
            "loss": 1.7 + 3.8 * math.exp(-step / 60) + noise[step],
            "tokens": 8192 * step,
        }
        for stage, length, steps in stages
        for step in steps
    ]


def fake_config(context: str, seed: int, **settings: Any) -> dict[str, Any]:
    """`settings` with dots written as `__`: `optimizer__lr=0.002`."""
    module = f"elongate.context.position.{context}"
    config: dict[str, Any] = {
        "seed": seed,
        "name": f"{context}-{seed}",
        "steps": 60,
        "model": {"_target_": "elongate.models.gpt.GPT", "original_length": 256},
        "context": {
            "target_length": 1024,
            "position": {"_target_": f"{module}.{context.title()}", "theta": f"of {context}"},
        },
        "optimizer": {"_target_": "elongate.training.adamw.AdamW", "lr": 0.001},
        "data": {"_target_": "elongate.data.stdlib.Stdlib", "seed": seed},
        "tracking": {"run_id": f"{context}-{seed}"},
    }
    for key, value in settings.items():
        node = config
        *path, last = key.split("__")
        for part in path:
            node = node[part]
        node[last] = value
    return config


def write_run(directory: Path, results: dict[str, Any] | None, config: dict[str, Any], metrics: bool = False) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if results is not None:
        (directory / "results.json").write_text(json.dumps(results))
    if metrics:
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in fake_metrics()))
    return directory
