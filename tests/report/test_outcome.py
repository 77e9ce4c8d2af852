"""The verdict of a sweep: it names a winner only if the seeds allow it, and says what the winner is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elongate.report.outcome import outcome
from elongate.report.ranking import compare
from elongate.report.sweeps import read_sweep

from .fake import AFTER, fake_config, fake_results, with_reach, write_run

SEEDS = {0: 0.0, 1: 0.03, 2: -0.02}  # added to every loss of all strategies, by seed


def verdict(directory: Path, offsets: dict[str, float], seeds: dict[int, float] = SEEDS, noise: float = 0.0, **budget: Any) -> str:
    """The verdict on strategies with losses of 1.6 plus an offset; the noise alternates between seeds. `budget` is that of yarn."""
    for context, offset in offsets.items():
        for seed, shift in seeds.items():
            shift += 1.6 + offset - AFTER[context][3] + (noise if context == "yarn" else -noise) * (-1) ** seed
            results = with_reach(fake_results(context, seed, shift))
            results["budget"] |= {"seconds": 50.0, "peak_memory_bytes": 2**30} | (budget if context == "yarn" else {})
            write_run(directory / f"{context}-{seed}", results, fake_config(context, seed))
    return " ".join(outcome(compare(read_sweep(directory))))


def test_a_clear_winner_is_compared_with_the_runner_up_and_with_none(tmp_path: Path) -> None:
    text = verdict(tmp_path, {"yarn": 0.0, "ntk": 0.1, "none": 0.3}, seconds=60.0)
    assert text.startswith("context=yarn won: it has the lowest loss of 3 strategies at 512-1024 tokens, 1.603 ± 0.015 nats")
    assert "(before the extension: 3.218)" in text
    assert "The runner-up is context=ntk, 0.100 nats above it, a difference beyond chance (95%, Student's t over seeds)" in text
    assert "context=none is 0.300 nats above it" in text
    assert "compared with context=none: effective context 1,024 (interval 512–1,024) against 512 (interval 256–1,024)" in text
    assert "written exactly" not in text  # no strategy can
    assert "training 60.0 s against 50.0 s (20% more); peak memory 1,024 MiB against 1,024 MiB (about the same)" in text


def test_a_difference_within_chance_has_no_winner(tmp_path: Path) -> None:
    text = verdict(tmp_path, {"yarn": 0.0, "ntk": 0.001, "pi": 1.0}, noise=0.02)
    assert text.startswith("There is no clear winner.")
    assert "won" not in text
    assert "Not distinguishable from it: context=" in text
    assert ". Next is context=pi" in text
    assert "Costs compared with context=" in text


def test_with_one_seed_the_best_is_only_ahead(tmp_path: Path) -> None:
    text = verdict(tmp_path, {"yarn": 0.0, "ntk": 0.1}, seeds={0: 0.0})
    assert text.startswith("context=yarn is ahead: ")
    assert "0.100 nats above it, but one seed does not show whether that is chance" in text
    assert "Student" not in text
    assert "Costs compared with context=ntk" in text


@pytest.mark.parametrize("missing", ["context_gain", "curve"])
def test_figures_that_were_not_measured_are_left_out(tmp_path: Path, missing: str) -> None:
    for context in ("yarn", "ntk"):
        results = with_reach(fake_results(context))
        del results[missing], results["retrieval"]
        write_run(tmp_path / context, results, fake_config(context, 0))
    sentences = outcome(compare(read_sweep(tmp_path)))
    assert bool(sentences) == (missing != "curve")
    assert "How far back" not in " ".join(sentences)


def test_a_single_strategy_has_no_verdict(tmp_path: Path) -> None:
    assert verdict(tmp_path, {"yarn": 0.0}) == ""


def test_a_length_that_the_base_cannot_read_has_no_loss_before_the_extension(tmp_path: Path) -> None:
    for context in ("yarn", "ntk"):
        results = fake_results(context)
        before = results["curve"]["table"]["before"]
        before["loss"][2:] = [None] * len(before["loss"][2:])
        write_run(tmp_path / context, results, fake_config(context, 0))
    (first, *_) = outcome(compare(read_sweep(tmp_path)))
    assert "the lowest loss of 2 strategies at 512-1024 tokens" in first
    assert "before the extension" not in first


def test_with_two_seeds_a_winner_needs_more_than_twelve_standard_errors(tmp_path: Path) -> None:
    """Student's t with one degree of freedom is 12.7."""
    for name, gap in (("near", 0.05), ("far", 0.2)):
        text = verdict(tmp_path / name, {"yarn": 0.0, "ntk": gap}, seeds={0: 0.0, 1: 0.0}, noise=0.005)
        assert ("won" in text) == (name == "far")  # the standard error of the difference is 0.01


def test_a_strategy_ranked_behind_may_be_better_over_the_common_seeds(tmp_path: Path) -> None:
    offsets = {"yarn": {0: -0.5, 1: 0.05, 2: 0.06}, "ntk": {1: 0.0, 2: 0.0}}
    for context, seeds in offsets.items():
        for seed, shift in seeds.items():
            write_run(
                tmp_path / f"{context}-{seed}", fake_results(context, seed, 1.6 + shift - AFTER[context][3]), fake_config(context, seed)
            )
    text = " ".join(outcome(compare(read_sweep(tmp_path))))
    assert "context=ntk (0.055 ± 0.005 nats below it over the common seeds)" in text


def test_a_cost_that_varies_more_between_seeds_than_between_strategies_may_be_chance(tmp_path: Path) -> None:
    for context, times in (("yarn", (50.0, 90.0, 70.0)), ("ntk", (60.0, 95.0, 80.0))):
        for seed, seconds in enumerate(times):
            results = fake_results(context, seed)
            results["budget"] |= {"seconds": seconds, "peak_memory_bytes": 2**30 + (context == "ntk") * 2**28}
            write_run(tmp_path / f"{context}-{seed}", results, fake_config(context, seed))
    text = outcome(compare(read_sweep(tmp_path)))[-1]
    assert "training 70.0 s against 78.3 s (11% less, which may be chance)" in text
    assert "peak memory 1,024 MiB against 1,280 MiB (20% less)" in text
