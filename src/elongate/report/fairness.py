"""What differs between strategies before the extension, so that a difference in the end is not only that of the strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elongate.report.groups import Group, Run

_LIST = 3  # bases that a note names


def same_tokens(groups: list[Group]) -> bool:
    """Whether strategies of the same seed read the same text with the same tokenizer."""
    return _agree(groups, lambda run: run.results.get("inputs", {}).get("data"))


def same_texts(groups: list[Group]) -> bool:
    """Whether strategies of the same seed were measured on the same held-out tokens."""
    return same_tokens(groups) and _agree([group for group in groups if "curve" in group.first.results], _documents)


def same_bases(groups: list[Group]) -> bool:
    """Whether strategies of the same seed extend the same model."""
    return _agree(groups, _base)


def fairness_notes(groups: list[Group]) -> list[str]:
    """What makes the comparison unfair, and how to compare fairly; empty if nothing does."""
    notes = []
    if not same_tokens(groups):
        notes.append(
            "The strategies read different tokens (another text or another tokenizer), so their losses per token cannot be compared. "
            "Bits per byte can, on the same text: measure evaluation=[perplexity]."
        )
    elif not same_texts(groups):
        notes.append(
            "The strategies were measured on different held-out documents, so their losses cannot be compared: "
            "measure all of them with the same evaluation.curve settings, for example with evaluate.py."
        )
    if not same_bases(groups):
        bases = sorted({str(base) for group in groups for run in group.runs.values() if (base := _base(run))})
        shown = ", ".join(bases[:_LIST]) + (" …" if len(bases) > _LIST else "")
        trained = min((base for group in groups for run in group.runs.values() if (base := _trained_base(run))), default=None)
        remedy = f" For a fair comparison extend one base in all runs: model=pretrained model.source={trained}/model." if trained else ""
        notes.append(f"The strategies extend different bases ({shown}), so part of a difference is that of the bases.{remedy}")
    return notes


def identical(ours: Group, theirs: Group) -> bool:
    """Whether everything that was measured after the extension is equal to the last bit, for every seed of both."""
    common = ours.runs.keys() & theirs.runs.keys()
    return bool(common) and all(_after(ours.runs[seed]) == _after(theirs.runs[seed]) for seed in common)


def _after(run: Run) -> dict[str, Any]:
    found = {name: section["after"] for name, section in run.results.items() if isinstance(section, dict) and "after" in section}
    curve = run.results.get("curve", {})
    return found | {part: curve[part].get("after") for part in ("table", "fine") if part in curve}


def _agree(groups: list[Group], trait: Callable[[Run], Any]) -> bool:
    seeds = {seed for group in groups for seed in group.runs}
    return all(len({trait(group.runs[seed]) for group in groups if seed in group.runs}) <= 1 for seed in seeds)


def _documents(run: Run) -> tuple[Any, ...]:
    curve = run.results["curve"]
    return curve["length"], curve["n"], curve["documents"]


def _base(run: Run) -> str | None:
    """The base that was trained, or the checkpoint and a hash of its weights."""
    if trained := _trained_base(run):
        return trained
    weights = run.results.get("inputs", {}).get("model")
    return f"{run.settings.get('model.source')} {weights[:8]}" if weights else None


def _trained_base(run: Run) -> str | None:
    """The folder of the base that was trained; None for a checkpoint."""
    base = run.results["budget"].get("base")
    return str(base["path"]) if base else None
