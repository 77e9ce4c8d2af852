"""`python evaluate.py`: runs the evaluations of a run, or of any causal or masked checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from elongate.models.compatibility import check_head
from elongate.models.pretrained import Pretrained, check_vocabulary
from elongate.objectives.objective import usual_objective
from elongate.report.page import write_report
from elongate.training.origin import find_device

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

GROUPS = ("data", "tokenizer", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """The top-level keys of the configuration of `evaluate.py`."""

    checkpoint: str  # a run directory, a transformers folder or a hub id
    seed: int | None  # null: the run's
    precision: str | None  # fp32, bf16; null: the run's, or fp32
    device: str  # auto, cpu, cuda, cuda:1 …

    def __post_init__(self) -> None:
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "must be at least 0", "use {key}=null for the run's own")
        check_device(self.device)
        rule = f"must be one of {', '.join(PRECISIONS)}"
        require(self.precision in (None, *PRECISIONS), "precision", self.precision, rule, "use {key}=fp32")


@dataclass(frozen=True, kw_only=True)
class Original:
    """The keys of `model` that evaluation takes."""

    original_length: int | None  # tokens, at least 1; null: the run's, or the checkpoint's

    def __post_init__(self) -> None:
        _check_length("original_length", self.original_length)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The keys of `context` that evaluation takes, except for the group `context/attention`."""

    target_length: int | None  # tokens, at least 1; null: the run's, or the checkpoint's

    def __post_init__(self) -> None:
        _check_length("target_length", self.target_length)


def _check_length(key: str, length: int | None) -> None:
    require(length is None or length > 0, key, length, "must be at least 1", "use {key}=null for the checkpoint's own")


def evaluate_checkpoint(config: DictConfig, conf: Path, directory: Path) -> tuple[dict[str, Any], tuple[Evaluation, ...]]:
    """Measures the checkpoint and writes results.json and the report into the directory. Raises `ConfigError`.

    A value that the configuration leaves null comes from the run; without a run, from the defaults in `conf`.
    """
    top = build_class(Scalars, OmegaConf.masked_copy(config, list(Scalars.__dataclass_fields__)), "")
    folder = Path(top.checkpoint).expanduser()
    trained = _run_config(folder)
    nodes = {group: _node(config, trained, conf, group) for group in GROUPS}
    source = _source(top.checkpoint, folder, is_run=bool(trained))
    evaluations = build_evaluations(nodes["evaluation"])
    for evaluation in evaluations:
        evaluation.check_alone()
    data = build(nodes["data"], "data")
    with _of_checkpoint(top.checkpoint), inside("tokenizer"):
        tokenizer = pretrained_tokenizer(build(nodes["tokenizer"], "tokenizer"), source).fit(data)
    with inside("data"):
        corpus = load_corpus(data, tokenizer)
    model = _open(source, top, trained, tokenizer.vocab_size)
    original, target = _lengths(config, folder if trained else None, model)
    with inside("objective"):
        objective = build(_objective_node(trained, conf, model.has), "objective").bind(model.has, original)
    if objective.masks:
        with inside("tokenizer"):
            tokenizer = tokenizer.with_mask()
        check_vocabulary(model, tokenizer.vocab_size)
    model.mask_token = tokenizer.mask
    results: dict[str, Any] = {"strategy": _results(folder)["strategy"]} if trained else {}
    with inside("context"), inside("attention"):
        attention = _attention(config, trained)
        attention.check(target, original)
        results["attention"] = model.attend(attention, original, target)
    seed = trained.get("seed", 0) if top.seed is None else top.seed
    setting = Setting(corpus.validation, tokenizer, original, target, seed, objective.scorer)
    results |= {evaluation.word: evaluation.header(setting) for evaluation in evaluations}
    # Write only from here on, so a rejected configuration leaves nothing behind.
    read = [folder, *(path for evaluation in evaluations for path in evaluation.reads())]
    samples = Samples(directory / "samples.jsonl", _identity(config, trained, read, corpus.validation, directory))
    _measure(evaluations, model, setting, samples, directory, results)
    return results, evaluations


def _open(source: Pretrained, top: Scalars, trained: dict[str, Any], vocab_size: int) -> LanguageModel:
    """The model on its device."""
    with _of_checkpoint(top.checkpoint):
        model = source.build(vocab_size, 0)
        model.network.to(find_device(top.device))
        check_head(model)
    model.precision = top.precision or trained.get("precision", "fp32")
    return model


def _lengths(config: DictConfig, run: Path | None, model: LanguageModel) -> tuple[int, int]:
    """Original and target length: from the command line, else from the run, else from the checkpoint."""
    original = build_class(Original, config.model, "model").original_length
    target = build_class(Target, OmegaConf.masked_copy(config.context, ["target_length"]), "context").target_length
    if run is not None:
        strategy = _results(run)["strategy"]
        original, target = original or strategy["original_length"], target or strategy["target_length"]
    return original or model.original_length, target or model.original_length


def _measure(
    evaluations: tuple[Evaluation, ...],
    model: LanguageModel,
    setting: Setting,
    samples: Samples,
    directory: Path,
    results: dict[str, Any],
) -> None:
    """Runs the evaluations, adds their figures to the results, and writes results and report."""
    for evaluation in evaluations:
        if not evaluation.is_measured:
            continue
        say(f"measuring {evaluation.word}")
        of_row = replace(setting, samples=samples.part(evaluation.word, "after"))
        add_row(results[evaluation.word], "after", run_evaluation(evaluation, model, of_row, lambda text: None))
        write_json(directory / "results.json", results)
    for evaluation in evaluations:
        results[evaluation.word] |= evaluation.conclude(samples, setting)
    write_json(directory / "results.json", results)
    write_report(directory, evaluations)


def _identity(config: DictConfig, trained: dict[str, Any], read: list[Path], held_out: Tokens, directory: Path) -> str:
    """Cache key of this evaluation: changes with the command line, the text or any input file.

    Files that this evaluation writes into the directory do not count.
    """
    every = [file for path in read for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in every if directory.resolve() not in file.resolve().parents]
    stats = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.suffix in (".safetensors", ".json", ".jsonl")
    ]
    text = digest_of(held_out.flat, held_out.bounds)
    return hashlib.sha256(json.dumps([OmegaConf.to_yaml(config), trained, stats, text]).encode()).hexdigest()


def _attention(config: DictConfig, trained: dict[str, Any]) -> Attention:
    """The attention from the command line, else the one the run was measured with, else full attention."""
    if config.context.get("attention") is not None:
        return build(config.context.attention, "context.attention")
    return build(OmegaConf.create(trained["context"]), "context").measured_attention if trained else Full()


def _objective_node(trained: dict[str, Any], conf: Path, has: frozenset[str]) -> DictConfig:
    """The run's objective, else the usual one of such a model. It decides how the model is scored."""
    if trained:
        return OmegaConf.create(trained["objective"])
    return OmegaConf.load(conf / "objective" / f"{usual_objective(has)}.yaml")  # type: ignore[return-value]  # a mapping


def _run_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run in the folder; empty if the checkpoint is not a run."""
    file = folder / "config.yaml"
    return dict(yaml.safe_load(file.read_text())) if file.is_file() else {}


def _results(folder: Path) -> dict[str, Any]:
    from elongate.training.run_directory import RunDirectory

    results = RunDirectory(folder).read_results()
    if "strategy" not in results:
        raise ConfigError("checkpoint", folder, "is a run whose training is not finished", "run its training command again first")
    return results


def _source(checkpoint: str, folder: Path, is_run: bool) -> Pretrained:
    if is_run:
        _results(folder)
    with _of_checkpoint(checkpoint):
        return Pretrained(source=str(folder / "model") if is_run else checkpoint)


@contextmanager
def _of_checkpoint(checkpoint: str) -> Iterator[None]:
    """Renames the key of errors about the model's source: on this command line it is `checkpoint`."""
    try:
        yield
    except ConfigError as fault:
        if fault.key not in ("source", "model.source"):
            raise
        raise ConfigError("checkpoint", checkpoint, fault.rule, fault.remedy.replace("model.source", "{key}")) from fault.__cause__


def _node(config: DictConfig, trained: dict[str, Any], conf: Path, group: str) -> DictConfig:
    """The choice from the command line, else the run's, else the default of training."""
    if (chosen := config.get(group)) is not None:
        return chosen
    if trained:
        return OmegaConf.create(trained[group])
    words = {"data": ["stdlib"], "tokenizer": ["pretrained"], "evaluation": ["curve", "needle"]}[group]
    nodes = OmegaConf.create({word: OmegaConf.load(conf / group / f"{word}.yaml") for word in words})
    return nodes if group == "evaluation" else nodes[words[0]]
