"""A comparison names what differs before the extension, ranks only what can be compared, and by retrieval where it is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elongate.report.comparison import comparison_summary
from elongate.report.outcome import outcome
from elongate.report.ranking import Comparison, compare
from elongate.report.sweeps import read_sweep

from .fake import AFTER, fake_config, fake_results, write_run

Change = Callable[[dict[str, Any]], None]


def compared(folder: Path, changes: dict[str, Change], seeds: tuple[int, ...] = (0, 1), **settings: Any) -> Comparison:
    """Strategies whose results are changed; all have the losses of yarn and equal shifts by seed, plus 0.1 for the second."""
    for number, (context, change) in enumerate(changes.items()):
        for seed in seeds:
            results = fake_results(context, seed, AFTER["yarn"][3] - AFTER[context][3] + 0.1 * number + 0.001 * seed * number)
            change(results)
            write_run(folder / f"{context}-{seed}", results, fake_config(context, seed, **settings))
    return compare(read_sweep(folder))


def unchanged(results: dict[str, Any]) -> None:
    pass


def retrieving(share: float) -> Change:
    def change(results: dict[str, Any]) -> None:
        row = results["needle"]["after"]
        row["exact_match"] = [[share for _ in line] for line in row["exact_match"]]

    return change


def test_a_strategy_that_retrieves_is_ahead_of_one_with_a_lower_loss(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"pi": retrieving(0.05), "yarn": retrieving(0.6)})
    assert [row.group.label for row in comparison.rows] == ["context=yarn", "context=pi"]
    assert comparison.deciding == "needle_exact_match_at_target"
    lead, runners_up, *_ = outcome(comparison)
    assert lead.startswith("context=yarn won: it has the highest exact match of the needle of 2 strategies at 1024 tokens, 0.60")
    assert "context=pi, 0.550 below it" in runners_up


def test_the_loss_decides_where_no_strategy_retrieves_or_one_was_not_asked(tmp_path: Path) -> None:
    for name, changes in (
        ("none retrieves", {"pi": retrieving(0.05), "yarn": retrieving(0.09)}),
        ("not measured", {"pi": lambda results: results.pop("needle"), "yarn": retrieving(0.6)}),
    ):
        comparison = compared(tmp_path / name, changes)
        assert comparison.deciding == "after_512_1024"
        assert comparison.rows[0].group.label == "context=pi"


def test_equal_results_have_no_winner(tmp_path: Path) -> None:
    for rate in (0.001, 0.002):
        write_run(tmp_path / str(rate), fake_results("yarn"), fake_config("yarn", 0, optimizer__lr=rate))
    comparison = compare(read_sweep(tmp_path))
    assert outcome(comparison) == ["All 2 strategies have the same results to the last bit: what differs between them has no effect here."]
    assert [row.mark for row in comparison.rows] == ["best", "identical"]


def test_one_that_equals_the_best_is_named_beside_one_that_does_not(tmp_path: Path) -> None:
    for rate in (0.001, 0.002):
        write_run(tmp_path / str(rate), fake_results("yarn"), fake_config("yarn", 0, optimizer__lr=rate))
    write_run(tmp_path / "pi", fake_results("pi"), fake_config("pi", 0))
    text = " ".join(outcome(compare(read_sweep(tmp_path))))
    assert "Identical to it, to the last bit: context=yarn optimizer.lr=0.002. The runner-up is context=pi" in text


def test_different_bases_are_named_with_their_share_of_the_difference(tmp_path: Path) -> None:
    def other_base(results: dict[str, Any]) -> None:
        results["budget"]["base"]["path"] = "runs/bases/gpt-256-ffffffff"
        before = results["curve"]["table"]["before"]["loss"]
        before[3] += 0.08

    comparison = compared(tmp_path, {"yarn": unchanged, "pi": other_base})
    assert "extend different bases (runs/bases/gpt-256-1a2b3c4d, runs/bases/gpt-256-ffffffff)" in comparison.notes[0]
    assert "model=pretrained model.source=runs/bases/gpt-256-1a2b3c4d/model" in comparison.notes[0]
    text = " ".join(outcome(comparison))
    assert text.startswith("context=yarn is ahead: ")  # although the seeds agree
    assert "Of the difference of 0.101 nats to context=pi, 0.080 were there before the extension." in text


def test_bases_of_different_seeds_are_no_different_bases(tmp_path: Path) -> None:
    for context in ("yarn", "pi"):
        for seed in (0, 1):
            results = fake_results(context, seed)
            results["budget"]["base"]["path"] += str(seed)
            write_run(tmp_path / f"{context}-{seed}", results, fake_config(context, seed))
    assert not any("bases" in note for note in compare(read_sweep(tmp_path)).notes)


def test_losses_on_different_documents_are_not_ranked(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"yarn": unchanged, "pi": lambda results: results["curve"].update(n=8)})
    assert comparison.criterion is None
    assert outcome(comparison) == []
    assert "measured on different held-out documents" in comparison.notes[0]


@pytest.mark.parametrize("measured", [False, True])
def test_losses_of_different_tokens_are_not_ranked_but_bits_per_byte_are(tmp_path: Path, measured: bool) -> None:
    def read(fingerprint: str, bits: float) -> Change:
        def change(results: dict[str, Any]) -> None:
            results["inputs"] = {"data": fingerprint, "model": None}
            if measured:
                row = {"bits_per_byte": [bits + 0.2, bits, bits - 0.3]}
                results["perplexity"] = {"lengths": [512, 1024, 2048], "before": row, "after": row}

        return change

    comparison = compared(tmp_path, {"yarn": read("of bytes", 2.3), "pi": read("of words", 2.1)})
    assert "losses per token cannot be compared" in comparison.notes[0]
    if not measured:
        assert comparison.criterion is None
        return
    lead = outcome(comparison)[0]
    assert lead.startswith("context=pi won: it has the fewest bits per byte of 2 strategies at 1024 tokens, 2.100")
    assert "bits per byte at 1024" in comparison_summary(tmp_path)


def test_runs_of_another_sweep_in_the_folder_are_left_out_and_those_of_an_added_strategy_are_not(tmp_path: Path) -> None:
    def write(name: str, context: str, command: str, day: int, **settings: Any) -> None:
        results = fake_results(context) | {"provenance": {"command": command, "date": f"2026-01-0{day}"}}
        write_run(tmp_path / name, results, fake_config(context, 0, **settings))

    for number, rate in enumerate((0.01, 0.02)):
        write(f"rate-{number}", "yarn", "python train.py -m optimizer.lr=0.01,0.02 steps=90", 1, optimizer__lr=rate, steps=90)
    for context in ("yarn", "pi"):
        write(context, context, "python train.py -m context=yarn,pi", 2)
    write("ntk", "ntk", "python train.py -m context=ntk", 1)
    sweep = read_sweep(tmp_path)
    assert {group.label for group in sweep.groups} == {"context=yarn", "context=pi", "context=ntk"}
    assert sweep.other == ["rate-0", "rate-1"]
    assert "they are of another sweep with the same name: rate-0, rate-1." in " ".join(comparison_summary(tmp_path).split())
