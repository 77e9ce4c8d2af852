"""Who won is said only as surely as the seeds allow, and against whom it is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elongate.report.groups import read_sweep
from elongate.report.outcome import outcome
from elongate.report.ranking import compare

from .fake import AFTER, fake_config, fake_results, with_reach, write_run

SEEDS = {0: 0.0, 1: 0.03, 2: -0.02}  # what a seed adds to every loss, whatever the strategy


def told(directory: Path, offsets: dict[str, float], seeds: dict[int, float] = SEEDS, noise: float = 0.0, **budget: Any) -> str:
    """The outcome where each strategy is so far above `1.6`; every other seed has so much noise in it. `budget` is yarn's."""
    for context, offset in offsets.items():
        for seed, shift in seeds.items():
            shift += 1.6 + offset - AFTER[context][3] + (noise if context == "yarn" else -noise) * (-1) ** seed
            results = with_reach(fake_results(context, seed, shift))
            results["budget"] |= {"seconds": 50.0, "peak_memory_bytes": 2**30} | (budget if context == "yarn" else {})
            write_run(directory / f"{context}-{seed}", results, fake_config(context, seed))
    return " ".join(outcome(compare(read_sweep(directory))))


def test_a_clear_winner_has_won_against_the_runner_up_and_none(tmp_path: Path) -> None:
    text = told(tmp_path, {"yarn": 0.0, "ntk": 0.1, "none": 0.3}, seconds=60.0)
    assert text.startswith("context=yarn won: it has the lowest loss of 3 strategies at 512-1024 tokens, 1.603 ± 0.015 nats")
    assert "(before the extension: 3.218)" in text
    assert "The runner-up is context=ntk, 0.100 nats above it, more than chance explains (95%, Student's t over seeds)" in text
    assert "context=none is 0.300 nats above it" in text
    assert "against context=none: effective context 1,024 (interval 512–1,024) against 512 (interval 256–1,024)" in text
    assert "written exactly" not in text  # nobody can
    assert "training 60.0 s against 50.0 s (20% more); memory at the peak 1,024 MiB against 1,024 MiB (about the same)" in text


def test_what_the_seeds_do_not_tell_apart_is_no_victory(tmp_path: Path) -> None:
    text = told(tmp_path, {"yarn": 0.0, "ntk": 0.001, "pi": 1.0}, noise=0.02)
    assert text.startswith("No clear winner.")
    assert "won" not in text
    assert "Not distinguishable from it: context=" in text
    assert ". Next is context=pi" in text
    assert "Its cost, against context=" in text


def test_one_seed_is_ahead_and_no_more(tmp_path: Path) -> None:
    text = told(tmp_path, {"yarn": 0.0, "ntk": 0.1}, seeds={0: 0.0})
    assert text.startswith("context=yarn is ahead: ")
    assert "0.100 nats above it, how surely one seed cannot tell" in text
    assert "Student" not in text
    assert "Its cost, against context=ntk" in text


@pytest.mark.parametrize("missing", ["context_gain", "curve"])
def test_what_was_not_measured_is_not_told(tmp_path: Path, missing: str) -> None:
    for context in ("yarn", "ntk"):
        results = with_reach(fake_results(context))
        del results[missing], results["retrieval"]
        write_run(tmp_path / context, results, fake_config(context, 0))
    sentences = outcome(compare(read_sweep(tmp_path)))
    assert bool(sentences) == (missing != "curve")
    assert "How far back" not in " ".join(sentences)


def test_a_single_strategy_has_beaten_nobody(tmp_path: Path) -> None:
    assert told(tmp_path, {"yarn": 0.0}) == ""


def test_a_length_that_could_not_be_read_before_has_no_loss_from_before(tmp_path: Path) -> None:
    for context in ("yarn", "ntk"):
        results = fake_results(context)
        before = results["curve"]["table"]["before"]
        before["loss"][2:] = [None] * len(before["loss"][2:])
        write_run(tmp_path / context, results, fake_config(context, 0))
    (first, *_) = outcome(compare(read_sweep(tmp_path)))
    assert "the lowest loss of 2 strategies at 512-1024 tokens" in first
    assert "before the extension" not in first


def test_two_seeds_win_by_more_than_ten_standard_errors_or_not_at_all(tmp_path: Path) -> None:
    """Student's t with one degree of freedom: 12.7."""
    for name, gap in (("near", 0.05), ("far", 0.2)):
        text = told(tmp_path / name, {"yarn": 0.0, "ntk": gap}, seeds={0: 0.0, 1: 0.0}, noise=0.005)
        assert ("won" in text) == (name == "far")  # the difference is known to ±0.01


def test_what_is_ranked_behind_and_is_better_over_common_seeds_is_said_to_be(tmp_path: Path) -> None:
    offsets = {"yarn": {0: -0.5, 1: 0.05, 2: 0.06}, "ntk": {1: 0.0, 2: 0.0}}
    for context, seeds in offsets.items():
        for seed, shift in seeds.items():
            write_run(
                tmp_path / f"{context}-{seed}", fake_results(context, seed, 1.6 + shift - AFTER[context][3]), fake_config(context, seed)
            )
    text = " ".join(outcome(compare(read_sweep(tmp_path))))
    assert "context=ntk (0.055 ± 0.005 nats below it over the seeds in common)" in text


def test_a_cost_that_differs_from_seed_to_seed_more_than_from_strategy_to_strategy_says_so(tmp_path: Path) -> None:
    for context, times in (("yarn", (50.0, 90.0, 70.0)), ("ntk", (60.0, 95.0, 80.0))):
        for seed, seconds in enumerate(times):
            results = fake_results(context, seed)
            results["budget"] |= {"seconds": seconds, "peak_memory_bytes": 2**30 + (context == "ntk") * 2**28}
            write_run(tmp_path / f"{context}-{seed}", results, fake_config(context, seed))
    text = outcome(compare(read_sweep(tmp_path)))[-1]
    assert "training 70.0 s against 78.3 s (11% less, which may be chance)" in text
    assert "memory at the peak 1,024 MiB against 1,280 MiB (20% less)" in text
