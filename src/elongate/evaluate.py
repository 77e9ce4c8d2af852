"""`python evaluate.py`: the evaluations of a run, or of any causal or masked checkpoint, on their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from elongate.atomic import write_json
from elongate.build import build_evaluations, pretrained_tokenizer
from elongate.config import PRECISIONS, build, build_class, check_device
from elongate.console import say
from elongate.context.attention.attention import Attention
from elongate.context.attention.full import Full
from elongate.data.tokens import Tokens, load_corpus
from elongate.errors import ConfigError, inside, require
from elongate.evaluation.evaluation import Evaluation, Setting, add_row, run_evaluation
from elongate.evaluation.measurement.samples import Samples, digest_of
from elongate.models.pretrained import Pretrained, check_vocabulary
from elongate.objectives.objective import usual_objective
from elongate.report.page import write_report
from elongate.training.origin import find_device

GROUPS = ("data", "tokenizer", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Scalars:
    checkpoint: str
    seed: int | None
    precision: str | None
    device: str
    original_length: int | None  # tokens
    target_length: int | None  # tokens

    def __post_init__(self) -> None:
        for name in ("original_length", "target_length"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be at least 1", "use {key}=null for the checkpoint's own")
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "must be at least 0", "use {key}=null for the run's own")
        check_device(self.device)
        rule = f"must be one of {', '.join(PRECISIONS)}"
        require(self.precision in (None, *PRECISIONS), "precision", self.precision, rule, "use {key}=fp32")


def evaluate_checkpoint(config: DictConfig, conf: Path, directory: Path) -> tuple[dict[str, Any], tuple[Evaluation, ...]]:
    """Measures the checkpoint and writes results.json and the report into the directory. Raises `ConfigError`.

    What the configuration leaves null is taken from the run; for a checkpoint that is no run, from the defaults in `conf`.
    """
    top = build_class(Scalars, OmegaConf.masked_copy(config, list(Scalars.__dataclass_fields__)), "")
    folder = Path(top.checkpoint).expanduser()
    trained = _run_config(folder)
    nodes = {group: _node(config, trained, conf, group) for group in GROUPS}
    model = _model(top.checkpoint, folder, is_run=bool(trained))
    evaluations = build_evaluations(nodes["evaluation"])
    for evaluation in evaluations:
        evaluation.check_alone()
    data = build(nodes["data"], "data")
    with _of_checkpoint(top.checkpoint), inside("tokenizer"):
        tokenizer = pretrained_tokenizer(build(nodes["tokenizer"], "tokenizer"), model).fit(data)
    with inside("data"):
        corpus = load_corpus(data, tokenizer)
    with _of_checkpoint(top.checkpoint):
        network = model.build(tokenizer.vocab_size, 0)
        network.network.to(find_device(top.device))
        network.check_head()
    network.precision = top.precision or trained.get("precision", "fp32")
    original, target = top.original_length, top.target_length
    results: dict[str, Any] = {}
    if trained:
        results["strategy"] = strategy = _results(folder)["strategy"]
        original, target = original or strategy["original_length"], target or strategy["target_length"]
    seed = trained.get("seed", 0) if top.seed is None else top.seed
    original, target = original or network.original_length, target or network.original_length
    with inside("objective"):
        objective = build(_objective_node(trained, conf, network.has), "objective").on(network.has, original)
    if objective.masks:
        with inside("tokenizer"):
            tokenizer = tokenizer.with_mask()
        check_vocabulary(network, tokenizer.vocab_size)
    network.mask_token = tokenizer.mask
    with inside("attention"):
        attention = _attention(config, trained)
        attention.check(target, original)
        results["attention"] = network.attend(attention, original, target)
    setting = Setting(corpus.validation, tokenizer, original, target, seed, objective.reading)
    results |= {evaluation.word: evaluation.header(setting) for evaluation in evaluations}
    # Only now is anything written: what cannot be measured has been refused without a trace.
    read = [folder, *(path for evaluation in evaluations for path in evaluation.reads())]
    samples = Samples(directory / "samples.jsonl", _identity(config, trained, read, corpus.validation, directory))
    for evaluation in evaluations:
        if not evaluation.is_measured:
            continue
        say(f"measuring {evaluation.word}")
        of_row = replace(setting, samples=samples.part(evaluation.word, "after"))
        add_row(results[evaluation.word], "after", run_evaluation(evaluation, network, of_row, lambda text: None))
        write_json(directory / "results.json", results)
    for evaluation in evaluations:
        results[evaluation.word] |= evaluation.conclude(samples, setting)
    write_json(directory / "results.json", results)
    write_report(directory, evaluations)
    return results, evaluations


def _identity(config: DictConfig, trained: dict[str, Any], read: list[Path], held_out: Tokens, directory: Path) -> str:
    """Of what is measured and how: equal as long as neither the command line, nor the text, nor any of these files and folders changes.

    What this evaluation writes itself, into the directory, does not count.
    """
    every = [file for path in read for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in every if directory.resolve() not in file.resolve().parents]
    stats = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.suffix in (".safetensors", ".json", ".jsonl")
    ]
    text = digest_of(held_out.flat, held_out.bounds)
    return hashlib.sha256(json.dumps([OmegaConf.to_yaml(config), trained, stats, text]).encode()).hexdigest()


def _attention(config: DictConfig, trained: dict[str, Any]) -> Attention:
    """Who sees whom: what was chosen on the command line, else what the run was measured with, else everyone."""
    if config.get("attention") is not None:
        return build(config.attention, "attention")
    return build(OmegaConf.create(trained["context"]), "context").measured_attention if trained else Full()


def _objective_node(trained: dict[str, Any], conf: Path, has: frozenset[str]) -> DictConfig:
    """What the run learned, else what such a model is made for: it says how a model is read."""
    if trained:
        return OmegaConf.create(trained["objective"])
    return OmegaConf.load(conf / "objective" / f"{usual_objective(has)}.yaml")  # type: ignore[return-value]  # a mapping


def _run_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run that the folder holds; empty for a checkpoint that is none."""
    file = folder / "config.yaml"
    return dict(yaml.safe_load(file.read_text())) if file.is_file() else {}


def _results(folder: Path) -> dict[str, Any]:
    from elongate.training.run_directory import RunDirectory

    results = RunDirectory(folder).read_results()
    if "strategy" not in results:
        raise ConfigError("checkpoint", folder, "is a run whose training is not finished", "finish it by its own command first")
    return results


def _model(checkpoint: str, folder: Path, is_run: bool) -> Pretrained:
    if is_run:
        _results(folder)
    with _of_checkpoint(checkpoint):
        return Pretrained(source=str(folder / "model") if is_run else checkpoint)


@contextmanager
def _of_checkpoint(checkpoint: str) -> Iterator[None]:
    """What the model calls its source is `checkpoint` on this command line."""
    try:
        yield
    except ConfigError as fault:
        if fault.key not in ("source", "model.source"):
            raise
        raise ConfigError("checkpoint", checkpoint, fault.rule, fault.remedy.replace("model.source", "{key}")) from fault.__cause__


def _node(config: DictConfig, trained: dict[str, Any], conf: Path, group: str) -> DictConfig:
    """What was chosen on the command line, else the run's, else the default of training."""
    if (chosen := config.get(group)) is not None:
        return chosen
    if trained:
        return OmegaConf.create(trained[group])
    words = {"data": ["stdlib"], "tokenizer": ["pretrained"], "evaluation": ["curve", "needle"]}[group]
    nodes = OmegaConf.create({word: OmegaConf.load(conf / group / f"{word}.yaml") for word in words})
    return nodes if group == "evaluation" else nodes[words[0]]
