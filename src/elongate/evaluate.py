"""`python evaluate.py`: measures a run, or any causal or masked checkpoint, without training it."""

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
from elongate.config import PRECISIONS, build, build_class, check_device, check_kernels
from elongate.console import say
from elongate.context.attention.attention import Attention
from elongate.context.attention.full import Full
from elongate.data.tokens import Tokens, load_corpus
from elongate.errors import ConfigError, inside, require
from elongate.evaluation.evaluation import Evaluation, Setting, add_row, run_evaluation
from elongate.evaluation.measurement.samples import Samples, digest_of
from elongate.foreign import foreign
from elongate.models.pretrained import Pretrained, check_vocabulary
from elongate.objectives.objective import usual_objective
from elongate.report.page import write_report
from elongate.training.device import find_device

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel

# Choices for a checkpoint without a run.
_DEFAULTS = {"data": ["stdlib"], "tokenizer": ["pretrained"], "evaluation": ["curve", "needle"]}


def _check_length(key: str, length: int | None) -> None:
    require(length is None or length > 0, key, length, "must be at least 1", "use {key}=null for the checkpoint's own")


@dataclass(frozen=True, kw_only=True)
class ModelKeys:
    """The keys of `model` that an evaluation has."""

    original_length: int | None  # tokens, at least 1; null: the run's, or the checkpoint's

    def __post_init__(self) -> None:
        _check_length("original_length", self.original_length)


@dataclass(frozen=True, kw_only=True)
class ContextKeys:
    """The keys of `context` that an evaluation has."""

    target_length: int | None  # tokens, at least 1; null: the run's, or the checkpoint's
    attention: Attention | None = None  # None: the attention that the run was measured with, or full

    def __post_init__(self) -> None:
        _check_length("target_length", self.target_length)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of `evaluate.py` without the groups `data`, `tokenizer` and `evaluation`."""

    checkpoint: str  # a run directory, a transformers folder or a hub id
    seed: int | None  # null: the run's
    precision: str | None  # fp32, bf16, bf16_pure (weights are bfloat16 too); null: the run's, or fp32
    kernels: str  # fused layers: auto (Liger on CUDA, where it is installed), none or liger
    device: str  # auto, cpu, cuda, cuda:1 …
    model: ModelKeys
    context: ContextKeys

    def __post_init__(self) -> None:
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "must be at least 0", "use {key}=null for the run's own")
        check_device(self.device)
        check_kernels(self.kernels)
        rule = f"must be one of {', '.join(PRECISIONS)}"
        require(self.precision in (None, *PRECISIONS), "precision", self.precision, rule, "use {key}=fp32")

    @property
    def folder(self) -> Path:
        """The checkpoint as a path, whether it exists or not."""
        return Path(self.checkpoint).expanduser()


def evaluate_checkpoint(config: DictConfig, conf: Path, directory: Path) -> tuple[dict[str, Any], tuple[Evaluation, ...]]:
    """Measures the checkpoint and writes results.json and the report into the directory. Raises `ConfigError`.

    A value that the configuration leaves null comes from the run; without a run, from the defaults in `conf`.
    """
    keys = list(Settings.__dataclass_fields__)
    settings: Settings = build_class(Settings, OmegaConf.masked_copy(config, keys), "")
    run = run_config(settings.folder)
    strategy = run_results(settings.folder)["strategy"] if run else {}
    nodes = {group: _node(config, run, conf, group) for group in _DEFAULTS}
    evaluations = build_evaluations(nodes["evaluation"])
    for evaluation in evaluations:
        evaluation.check_alone()
    # Before the model is opened: its position may be a class of the user's own, which this imports.
    attention = settings.context.attention or run_attention(run)
    model, tokenizer, held_out = _open(settings, run, nodes)
    with named_checkpoint(settings.checkpoint):
        original = settings.model.original_length or strategy.get("original_length") or model.original_length
        target = settings.context.target_length or strategy.get("target_length") or model.original_length
    with inside("objective"):
        objective = build(_objective_node(run, conf, model.has), "objective").bind(model.has, original)
    if objective.masks:
        tokenizer = _add_mask(tokenizer, model)
    seed = run.get("seed", 0) if settings.seed is None else settings.seed
    setting = Setting(held_out, tokenizer, original, target, seed, objective.scorer)
    results: dict[str, Any] = {"strategy": strategy} if run else {}
    results["attention"] = set_attention(model, attention, target, original)
    results["add_bos"] = bool(tokenizer.beginning)  # measured texts begin with BOS
    results |= {evaluation.word: evaluation.header(setting) for evaluation in evaluations}
    # Write only from here on, so a rejected configuration leaves nothing behind.
    read = [settings.folder, *(path for evaluation in evaluations for path in evaluation.reads())]
    key = _cache_key([OmegaConf.to_yaml(config), run], read, held_out, directory)
    _measure(evaluations, model, setting, Samples(directory / "samples.jsonl", key), directory, results)
    return results, evaluations


def _open(settings: Settings, run: dict[str, Any], nodes: dict[str, DictConfig]) -> tuple[LanguageModel, Tokenizer, Tokens]:
    """The model on its device, its tokenizer and the held-out documents. Reads the data before it imports torch."""
    data = build(nodes["data"], "data")
    with named_checkpoint(settings.checkpoint):
        source = Pretrained(source=str(settings.folder / "model") if run else settings.checkpoint)
        with inside("tokenizer"):
            tokenizer = pretrained_tokenizer(build(nodes["tokenizer"], "tokenizer"), source).fit(data)
    tokenizer = tokenizer.with_bos(data.add_bos)
    with inside("data"):
        corpus = load_corpus(data, tokenizer)
    from elongate.models.compatibility import check_network
    from elongate.models.kernels import use_kernels
    from elongate.models.precision import use_precision

    with named_checkpoint(settings.checkpoint):
        model = source.build(tokenizer.vocab_size, 0)
        device = find_device(settings.device)
        model.network.to(device)
        check_network(model)
        model.kernels = use_kernels(model.network, settings.kernels, device)
    use_precision(model, settings.precision or run.get("precision", "fp32"))
    return model, tokenizer, corpus.validation


def _add_mask(tokenizer: Tokenizer, model: LanguageModel) -> Tokenizer:
    """The tokenizer with a token for hidden tokens, which the model gets too."""
    with inside("tokenizer"):
        tokenizer = tokenizer.with_mask()
    check_vocabulary(model, tokenizer.vocab_size)
    model.mask_token = tokenizer.mask
    return tokenizer


def set_attention(model: LanguageModel, attention: Attention, target: int, original: int) -> dict[str, Any]:
    """Sets the attention and returns its verified figures."""
    from elongate.models.compatibility import check_attention

    if not attention.is_full:
        check_attention(model, attention)
    with inside("context.attention"):
        attention.check(target, original)
        return model.attend(attention, original, target)


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


def _cache_key(configurations: list[Any], read: list[Path], held_out: Tokens, directory: Path) -> str:
    """A hash that changes with the command line, the text or any input file.

    Files that this evaluation writes into the directory do not count.
    """
    every = [file for path in read for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in every if directory.resolve() not in file.resolve().parents]
    inputs = [file for file in files if file.suffix in (".safetensors", ".json", ".jsonl")]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in inputs]
    text = digest_of(held_out.flat, held_out.bounds)
    return hashlib.sha256(json.dumps([*configurations, stats, text]).encode()).hexdigest()


# -- the run ---------------------------------------------------------------------------------------------------------------


def run_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run in the folder; empty if there is none."""
    file = folder / "config.yaml"
    if not file.is_file():
        return {}

    def damaged(reason: str) -> ConfigError:
        return ConfigError("checkpoint", folder, f"its config.yaml is damaged ({reason})", "name its model folder, {key}=<run>/model")

    with foreign(damaged):
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"context", "objective", *_DEFAULTS} <= found.keys():
        raise damaged("it lacks keys of a run")
    return found


def run_results(folder: Path) -> dict[str, Any]:
    """The results of the run. Raises `ConfigError` if its training is not finished."""
    from elongate.training.run_directory import RunDirectory

    results = RunDirectory(folder).read_results()
    if "strategy" not in results:
        raise ConfigError("checkpoint", folder, "is a run whose training is not finished", "run its training command again first")
    return results


def run_attention(run: dict[str, Any]) -> Attention:
    """The attention that the run was measured with; without a run, full attention."""
    return build(OmegaConf.create(run["context"]), "context").measured_attention if run else Full()


def _objective_node(run: dict[str, Any], conf: Path, has: frozenset[str]) -> DictConfig:
    """The run's objective, or the usual one of such a model. It decides how the model is scored."""
    if run:
        return OmegaConf.create(run["objective"])
    return OmegaConf.load(conf / "objective" / f"{usual_objective(has)}.yaml")  # type: ignore[return-value]  # a mapping


def _node(config: DictConfig, run: dict[str, Any], conf: Path, group: str) -> DictConfig:
    """The group as chosen on the command line, else as in the run, else the default."""
    if (chosen := config.get(group)) is not None:
        return chosen
    if run:
        return OmegaConf.create(run[group])
    words = _DEFAULTS[group]
    nodes = OmegaConf.create({word: OmegaConf.load(conf / group / f"{word}.yaml") for word in words})
    return nodes if group == "evaluation" else nodes[words[0]]


@contextmanager
def named_checkpoint(checkpoint: str) -> Iterator[None]:
    """Renames the key of errors about the model's source, which is `checkpoint` on this command line."""
    try:
        yield
    except ConfigError as fault:
        if fault.key not in ("source", "model.source"):
            raise
        raise ConfigError("checkpoint", checkpoint, fault.rule, fault.remedy.replace("model.source", "{key}")) from fault.__cause__
