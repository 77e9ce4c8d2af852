"""Teacher forcing with a shared prefill against one forward pass over the whole text, and against greedy generation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError, Stopped
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.measurement.samples import Samples
from elongate.evaluation.needle import Needle, Sample, _keys, _sample_pair, _score
from elongate.scoring.fill_in import FillIn
from elongate.scoring.left_to_right import LeftToRight


@pytest.fixture
def setting() -> Setting:
    flat = np.random.default_rng(0).integers(97, 123, size=5000).astype(np.uint16)
    return Setting(Tokens(flat, np.array([0, 5000])), ByteTokenizer(), 64, 128, seed=0, reading=LeftToRight())


def ticked(text: str) -> None:
    pass


def one(setting: Setting, length: int, depth: float, number: int) -> Sample:
    return _sample_pair(setting, _keys(setting), length, depth, number)[0]


def test_a_sample_has_the_length_and_the_depth_asked_for(setting: Setting) -> None:
    for depth in (0.0, 0.3, 1.0):
        sample = one(setting, 200, depth, 1)
        text = setting.tokenizer.decode(np.concatenate([sample.prefix, sample.answers[0]]))
        right, wrong = (setting.tokenizer.decode(answer) for answer in sample.answers)
        assert len(sample.prefix) + len(sample.answers[0]) == 200
        assert text.count(f"The pass key is{right}.") == 1
        assert text.endswith(f"The pass key is{right}")
        assert wrong not in text
        assert all(a != b for a, b in zip(right[1:], wrong[1:], strict=True))
        hay = 200 - len(f"\nThe pass key is{right}.\n") - len(f"\nThe pass key is{right}")
        assert text.index("\nThe pass key") == round(depth * hay)


def test_samples_are_a_function_of_seed_and_place(setting: Setting) -> None:
    keys = {bytes(one(setting, 200, depth, i).answers[0].astype(np.uint8)) for depth in (0, 0.5) for i in range(20)}
    assert len(keys) > 30
    np.testing.assert_array_equal(one(setting, 200, 0.5, 3).prefix, one(setting, 200, 0.5, 3).prefix)


def test_a_model_that_does_not_read_the_needle_has_no_margin(setting: Setting, model: Any) -> None:
    # The same haystack and the same two keys, right and wrong exchanged: a preference for one of them cancels.
    first, second = _sample_pair(setting, _keys(setting), 200, 0.5, 0)
    np.testing.assert_array_equal(first.answers, second.answers[::-1])
    assert (first.prefix != second.prefix).sum() == 5
    deaf = [replace(sample, prefix=first.prefix) for sample in (first, second)]
    assert abs(_score(model, LeftToRight(), deaf)[:, 1].sum()) < 1e-9 < abs(_score(model, LeftToRight(), deaf)[0, 1])


def test_a_stopped_measurement_resumes_with_the_same_result(setting: Setting, model: Any, tmp_path: Path) -> None:
    needle = Needle(lengths=[100, 200], depths=[0.0, 0.5], num_samples=2)
    whole = needle.measure(model, replace(setting, samples=Samples().part("needle", "after")), ticked)
    file, left = tmp_path / "samples.jsonl", 3

    def stops(text: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        needle.measure(model, replace(setting, samples=Samples(file).part("needle", "after")), stops)
    first = file.read_text()
    assert needle.measure(model, replace(setting, samples=Samples(file).part("needle", "after")), ticked) == whole
    assert file.read_text().startswith(first)  # earlier samples were not measured again
    records = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert len(records) == 2 * 2 * 2
    for record in records:
        assert {"answer", "depth", "depth_asked", "exact_match", "log_probability", "margin", "seconds", "seed", "tokens"} <= record.keys()
        assert abs(record["depth"] - record["depth_asked"]) < 0.5  # a share of a prefix that includes the question


def test_scores_equal_those_of_a_whole_forward(setting: Setting, model: Any) -> None:
    samples = [one(setting, 120, 0.5, i) for i in range(3)]
    for scores, sample in zip(_score(model, LeftToRight(), samples), samples, strict=True):
        totals = []
        for answer in sample.answers:
            tokens = torch.from_numpy(np.concatenate([sample.prefix, answer]))[None]
            with torch.no_grad():
                chances = model.network(tokens).logits[0].log_softmax(-1)
            n = len(answer)
            totals.append(chances[-n - 1 : -1].gather(1, tokens[0, -n:, None]).sum().item())
        np.testing.assert_allclose(scores[:2], [totals[0], totals[0] - totals[1]], rtol=1e-9, atol=1e-9)


def test_exact_match_is_what_greedy_generation_writes(setting: Setting, model: Any) -> None:
    sample = one(setting, 120, 0.5, 0)
    n = sample.answers.shape[1]
    generated = model.network.generate(torch.from_numpy(sample.prefix)[None], max_new_tokens=n, do_sample=False, pad_token_id=256)[
        0, -n:
    ].numpy()
    shifted = generated.copy()
    shifted[-1] = (shifted[-1] + 1) % 256
    for answer, expected in ((generated, 1.0), (shifted, 0.0)):
        (scores,) = _score(model, LeftToRight(), [replace(sample, answers=np.stack([answer, sample.answers[1]]))])
        assert scores[2] == expected


def test_means_and_errors_are_over_the_samples_of_a_cell(setting: Setting, model: Any) -> None:
    figures = Needle(lengths=[100], depths=[0.5], num_samples=4).measure(model, setting, lambda text: None)
    pairs = [_score(model, LeftToRight(), _sample_pair(setting, _keys(setting), 100, 0.5, i)) for i in range(4)]
    scores = np.stack([pair.mean(axis=0) for pair in pairs])
    assert figures["margin"] == [[pytest.approx(scores[:, 1].mean())]]
    assert figures["margin_standard_error"] == [[pytest.approx(scores[:, 1].std(ddof=1) / 2)]]


def test_lengths_without_room_for_the_needle_are_refused(setting: Setting) -> None:
    assert Needle().header(setting)["lengths"] == [64, 128, 256]
    with pytest.raises(ConfigError, match=r"evaluation\.needle\.lengths=\[20\]: must be between 47 .* and 5000"):
        Needle(lengths=[20]).header(setting)


def test_a_model_that_reads_both_sides_is_measured_to_the_target_only(setting: Setting) -> None:
    assert Needle().header(replace(setting, reading=FillIn(0.15)))["lengths"] == [64, 128]


def test_a_text_that_could_not_be_read_is_not_a_failure(setting: Setting, model: Any) -> None:
    class Unread(LeftToRight):
        def answers(self, model: Any, prefix: Any, choices: Any) -> Any:
            return np.full(choices.shape[:2], np.nan), np.zeros(choices.shape[:2], dtype=bool)

    figures = Needle(lengths=[100], depths=[0.5], num_samples=2).measure(model, replace(setting, reading=Unread()), lambda text: None)
    assert all(cells == [[None]] for cells in figures.values())
