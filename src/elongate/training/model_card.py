"""The model card of an export: README.md with the front matter that the hub reads, and what a user of the model must know."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from elongate.atomic import written_aside
from elongate.models.model import Model
from elongate.models.source import ModelSource
from elongate.training.job import Job
from elongate.training.run_directory import RunDirectory

_LICENCE_KEYS = ("license", "license_name", "license_link")
_FIGURES = {"before": "before the extension", "untuned": "extended, not trained", "after": "this model"}


def write_card(job: Job, results: dict[str, Any], directory: RunDirectory) -> None:
    """Write the card into the exported folder. Call after the measurements."""
    source = _source(job.model)
    text = card(job.model, {} if source is None else _front_matter(source.files()), results)
    with written_aside(directory.model / "README.md") as aside:
        aside.write_text(text, encoding="utf-8")


def card(model: Model, of_source: dict[str, Any], results: dict[str, Any]) -> str:
    """Return the text of the card. `of_source`: the front matter of the source's own card."""
    front = yaml.safe_dump(_front(model, of_source, results), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(_sections(model, of_source, results)) + "\n"


def _front(model: Model, of_source: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "transformers"}
    if (base := _base(model)) is not None:
        front["base_model"] = base
    front |= {"license": "unknown"} | {key: of_source[key] for key in (*_LICENCE_KEYS, "language") if key in of_source}
    strategy = results["strategy"]
    tasks = dict.fromkeys(("causal", "longce", "distillation", "restore"), "text-generation") | {"masked": "fill-mask"}
    task = tasks.get(strategy["objective"])
    if task is not None:
        front["pipeline_tag"] = task
    front["tags"] = ["elongate", "long-context", *dict.fromkeys((strategy["context"], strategy["position"]))]
    return front


def _sections(model: Model, of_source: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    strategy = results["strategy"]
    lengths = f"{strategy['original_length']:,} to {strategy['target_length']:,} tokens"
    base, start = _base(model), "a model trained from random weights"
    yield f"# {start.removeprefix('a ').capitalize() if base is None else base}, extended to {strategy['target_length']:,} tokens"
    yield f"Elongate extended {start if base is None else base} from {lengths} with the strategy `{strategy['context']}`."
    answers = {key: strategy[key] for key in ("position", "attention", "evaluation_attention", "curriculum", "sampling", "tuning")}
    if strategy["evaluation_attention"] == strategy["attention"]:
        del answers["evaluation_attention"]
    yield "\n".join(["| | |", "|---|---|", *(f"| {key.replace('_', ' ')} | {value} |" for key, value in answers.items() if value)])
    yield "## Loading\n\n" + _loading(strategy, results.get("export", {}))
    yield "## Verification\n\n" + _verification(strategy, results.get("export", {}), results["provenance"].get("precision", "fp32"))
    if "table" in results.get("curve", {}):
        yield "## Loss by position\n\n" + _curve(results["curve"])
    yield "## Licence\n\n" + _licence(of_source, base)
    provenance = results["provenance"]
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    yield f"## Versions\n\n{versions}; trained on {provenance['device']}, {provenance['date']}."


def _loading(strategy: dict[str, Any], exported: dict[str, Any]) -> str:
    if "transformers" not in exported.get("verified", {}):
        return (
            f"Plain transformers cannot express the position `{strategy['position']}` and does not open this folder. "
            "Elongate opens it: `evaluate.py checkpoint=<this folder>` or `model=pretrained model.source=<this folder>`."
        )
    kind = "AutoModelForMaskedLM" if strategy["objective"] in ("masked", "reconstruction") else "AutoModelForCausalLM"
    lines = ["```python", f"from transformers import {kind}, AutoTokenizer", ""]
    if strategy["model"] == "bidirectional_autoencoder":
        lines.insert(1, "import elongate.models.autoencoder.network  # registers the architecture")
    lines += ['tokenizer = AutoTokenizer.from_pretrained("<this folder>")', f'model = {kind}.from_pretrained("<this folder>")', "```"]
    text = "\n".join(lines)
    if strategy["evaluation_attention"] != "full":
        text += (
            f"\n\nPlain transformers cannot express the attention `{strategy['evaluation_attention']}`, with which the figures below were "
            "measured: it reads this model with full attention. Elongate's `evaluate.py` uses the attention of the run."
        )
    if strategy["position"] in ("dynamic_ntk", "longrope"):
        text += (
            "\n\nThe frequencies depend on the length of the text. Plain transformers does not change keys that are cached before a text "
            "grows past the original length: pass a text in one call."
        )
    return text


def _verification(strategy: dict[str, Any], exported: dict[str, Any], precision: str) -> str:
    lines, verified, proof = [], exported.get("verified", {}), strategy["proof"]
    if "frequencies" in proof:
        closed_form = f"Rotary frequencies match the closed form of `{strategy['position']}` to {proof['frequency_error']:.0e}"
        lines.append(f"{closed_form}, with an attention factor of {proof['attention_factor']:.6g}.")
    if "transformers" in verified:
        opened = f"This folder was opened with transformers {verified['transformers']} and compared with the trained network in float32"
        lengths = " and ".join(f"{length:,}" for length in verified["lengths"])
        rotary = (
            f"rotary frequencies to {verified['frequency_error']:.0e}, the attention factor to {verified['attention_factor_error']:.0e}"
        )
        lines.append(f"{opened}: {rotary} (texts of {lengths} tokens), logits to {verified['logits_error']:.0e} of their size.")
        if verified["weights"] == "compared":
            shared = "For this comparison the network of config.json got the weights in memory"
            lines.append(f"{shared}; every tensor of the weight files was read again and equals these.")
    elif "logits_error" in verified:
        opened = f"This folder was opened with Elongate {verified['elongate']}"
        lines.append(f"{opened}: its logits match those of the trained network to {verified['logits_error']:.0e} of their size.")
    if precision == "bf16_pure":
        lines.append(f"Weights were trained in bfloat16 and are stored in {exported['dtype']}; the figures were computed in bfloat16.")
    elif (dtype := exported.get("dtype")) == "float32":
        lines.append("Weights are stored in float32, as they were measured.")
    elif dtype is not None:
        measured = "the figures below are those of the rounded weights, computed in float32 unless the run used bf16"
        lines.append(f"Weights were trained in float32 and rounded to {dtype} before they were measured: {measured}.")
        lines.append(f"Opened with `dtype={dtype}`, the model computes in {dtype} too, with its rounding errors.")
    return "\n".join(f"- {line}" for line in lines)


def _curve(curve: dict[str, Any]) -> str:
    table = curve["table"]
    rows = [row for row in _FIGURES if row in table]
    lines = [f"| tokens | {' | '.join(_FIGURES[row] for row in rows)} |", "|---" * (len(rows) + 1) + "|"]
    for number, (start, stop) in enumerate(pairwise(table["edges"])):
        lines.append(f"| {start:,} to {stop:,} | {' | '.join(_estimate(table[row], number) for row in rows)} |")
    caption = f"Nats per token, mean over {curve['n']} held-out texts with its standard error."
    return f"{caption}\n\n" + "\n".join(lines)


def _estimate(row: dict[str, Any], number: int) -> str:
    loss, error = row["loss"][number], row["standard_error"][number]
    if loss is None:
        return "–"
    return f"{loss:.3f}" if error is None else f"{loss:.3f} ± {error:.3f}"


def _licence(of_source: dict[str, Any], base: str | None) -> str:
    if base is None:
        return "Trained from random weights; the licence of the training text applies."
    if (licence := of_source.get("license_name", of_source.get("license"))) is None:
        return f"{base} states no licence in its model card. Its terms apply to this model."
    return f"The licence of {base} applies: {licence}."


def _source(model: Model) -> ModelSource | None:
    """Return the checkpoint that the model, or its encoder, comes from."""
    name = getattr(model, "source", None) or getattr(model, "encoder", None)
    return None if name is None else ModelSource(name, getattr(model, "revision", None))


def _base(model: Model) -> str | None:
    """Return the hub id of the checkpoint, or the name of its folder: a path says nothing elsewhere."""
    if (source := _source(model)) is None:
        return None
    return source.folder.resolve().name if source.is_folder else source.name


def _front_matter(folder: Path) -> dict[str, Any]:
    """Return the front matter of a folder's README.md; empty without one that can be read."""
    file = folder / "README.md"
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    try:
        front = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return {}
    return front if isinstance(front, dict) else {}
