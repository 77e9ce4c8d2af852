"""Tasks on tiny models, from the file to the figures, which agree with the reference tools on the stored predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score
from tests.conftest import composed, evaluated

from elongate.build import build_job
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import Tokens
from elongate.errors import ConfigError
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.measurement.samples import Samples
from elongate.evaluation.text.classification import Classification
from elongate.evaluation.text.dialogue import Dialogue
from elongate.evaluation.text.question_answering import QuestionAnswering
from elongate.evaluation.text.summarization import Summarization
from elongate.evaluation.text.translation import Translation
from elongate.scoring.fill_in import FillIn
from elongate.scoring.left_to_right import LeftToRight
from elongate.scoring.scorer import Scorer

SAMPLES: list[dict[str, Any]] = []


class Writes(LeftToRight):
    """Continues each prompt with a given text, token by token, as greedy decoding would."""

    def __init__(self, say: Callable[[str], str]) -> None:
        self.say, self.read = say, []

    def continuation(self, model: Any, prefixes: Any, num_tokens: int, stop: Any) -> Any:
        found = []
        for prefix in prefixes:
            self.read.append(ByteTokenizer().decode(prefix))
            tokens = [*ByteTokenizer().encode(self.say(self.read[-1])), 256, *ByteTokenizer().encode("never")][:num_tokens]
            ends = next((i for i in range(1, len(tokens) + 1) if stop(np.array(tokens[:i]))), len(tokens))
            found.append(np.array(tokens[:ends]))
        return found


class Asked(LeftToRight):
    """Gives `fine` the highest log-probability if the text contains `good`, and another label otherwise."""

    def answers(self, model: Any, prefix: Any, choices: Any) -> Any:
        labels = [[ByteTokenizer().decode(choice) for choice in row] for row in choices]
        good = ["good" in ByteTokenizer().decode(row).split("\n")[0] for row in prefix]
        totals = [[-1.0 if (label == " fine") == liked else -2.0 for label in row] for row, liked in zip(labels, good, strict=True)]
        return np.array(totals), np.zeros((len(prefix), choices.shape[1]), dtype=bool)


class Silent(LeftToRight):
    """A model whose table of positions is too short."""

    def continuation(self, *given: Any) -> Any:
        return None


class Kept(Samples):
    """Records the added samples in order."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []

    def add(self, records: list[dict[str, Any]]) -> None:
        super().add(records)
        self.records += records


@pytest.fixture
def model(build_tiny: Callable[..., Any]) -> Any:
    return build_tiny().model.build(257, seed=0)


def setting(reading: Scorer, target: int = 400) -> tuple[Setting, list[dict[str, Any]]]:
    kept = Kept()
    held_out = Tokens(np.zeros(10, dtype=np.uint16), np.array([0, 10]))
    return Setting(held_out, ByteTokenizer(), 64, target, seed=0, reading=reading, samples=kept.part("task", "after")), kept.records


def rows(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def asked(context: str, question: str, *answers: str, **more: Any) -> dict[str, Any]:
    return {"context": context, "input": question, "answers": list(answers), **more}


def quiet(text: str) -> None:
    pass


@pytest.mark.slow
def test_answers_end_at_the_end_of_the_line_and_are_scored_against_the_best_reference(tmp_path: Path, model: Any) -> None:
    path = rows(tmp_path, asked("It was he.", "Who?", "him", "He."), asked("黑豹队丢了308分。", "多少分？", "308分"))
    reading = Writes(lambda prompt: "\n he\nand more" if "Who?" in prompt else " 308")
    given, samples = setting(reading)
    task = QuestionAnswering(path=path)
    header, row = task.header(given), task.measure(model, given, quiet)
    assert reading.read[0] == "It was he.\n\nQuestion: Who?\nAnswer:"
    assert [(s["prediction"], s["references"], s["is_cut"]) for s in samples] == [("he", ["him", "He."], False), ("308", ["308分"], False)]
    assert [s["prompt_tokens"] for s in samples] == [len(text.encode()) for text in reading.read]
    assert [s["score"] for s in samples] == [
        {"exact_match": 1.0, "f1": 1.0, "named": 0.0},  # "he" does not contain "He." with its full stop
        {"exact_match": 0.0, "f1": pytest.approx(2 / 3), "named": 0.0},
    ]
    assert row == {
        "n": 2,
        "exact_match": 0.5,
        "exact_match_standard_error": 0.5,
        "f1": pytest.approx(5 / 6),
        "f1_standard_error": pytest.approx(1 / 6),
        "named": 0.0,
        "named_standard_error": 0.0,
    }
    expected = {"path": path, "n": 2, "records": 2, "truncated": 0, "length": 400, "max_new_tokens": 32, "languages": ["en", "zh"]}
    assert header.items() >= expected.items()
    json.dumps(header)
    # Measured samples are not repeated.
    reading.read.clear()
    assert task.measure(model, given, quiet) == row
    assert reading.read == []


@pytest.mark.slow
def test_truncated_prompts_are_counted_and_leave_room_for_the_answer(tmp_path: Path, model: Any) -> None:
    path = rows(tmp_path, asked("x" * 500, "Who?", "he"), asked("short", "Who is it?", "he"))
    reading = Writes(lambda prompt: "y" * 200)
    given, samples = setting(reading, target=100)
    task = QuestionAnswering(path=path, max_new_tokens=20)
    assert task.header(given)["truncated"] == 1
    task.measure(model, given, quiet)
    assert sorted((s["prompt_tokens"], s["is_cut"], len(s["prediction"])) for s in samples) == [(35, False, 20), (80, True, 20)]
    assert all(text.endswith(("\n\nQuestion: Who?\nAnswer:", "\n\nQuestion: Who is it?\nAnswer:")) for text in reading.read)
    rule = r"evaluation\.question_answering\.length=45: is too short for sample .*; use .*length=\d+ or more"
    with pytest.raises(ConfigError, match=rule) as fault:
        replace(task, length=45).header(given)
    shortest = int(fault.value.remedy.split("=")[1].split()[0])
    assert replace(task, length=shortest).header(given)["n"] == 2
    with pytest.raises(ConfigError):
        replace(task, length=shortest - 1).header(given)


@pytest.mark.slow
def test_rouge_of_summaries_agrees_with_rouge_score(tmp_path: Path, model: Any) -> None:
    path = rows(tmp_path, *({"document": f"Document {i}.", "summary": f"A summary\nof {i} lines and words."} for i in range(6)))
    given, samples = setting(Writes(lambda prompt: f"\nsummaries\n\nof words {prompt[9:11]}"))
    row = Summarization(path=path).measure(model, given, quiet)
    assert samples[0]["prediction"].count("\n") == 2  # a summary may have several lines
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for figure in ("rouge1", "rouge2", "rougeL"):
        values = [scorer.score(s["references"][0], s["prediction"])[figure].fmeasure for s in samples]
        assert row[figure] == pytest.approx(np.mean(values), rel=1e-12)
        assert row[f"{figure}_standard_error"] == pytest.approx(np.std(values, ddof=1) / 6**0.5)
    assert row["rouge2"] < row["rouge1"] > 0


@pytest.mark.slow
def test_bleu_and_chrf_of_translations_agree_with_sacrebleu(tmp_path: Path, model: Any) -> None:
    pairs = [("one two", "一二三四五。"), ("three", "三四五六七。"), ("four", "四个人，五只狗。")]
    path = rows(tmp_path, *({"source": s, "target": t} for s, t in pairs))
    given, samples = setting(Writes(lambda prompt: "一二三四五六" if "one" in prompt else "四个人，五只狗"))
    task = Translation(path=path)
    header, row = task.header(given), task.measure(model, given, quiet)
    predictions, references = [s["prediction"] for s in samples], [[s["references"][0] for s in samples]]
    assert row["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, references, tokenize="zh").score, abs=1e-12)
    assert row["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, references).score, abs=1e-12)
    assert row["bleu_standard_error"] > 0 < row["chrf_standard_error"]
    assert "tok:zh" in header["signatures"]["bleu"]


def test_translations_into_languages_with_different_tokenization_are_refused(tmp_path: Path) -> None:
    path = rows(tmp_path, {"source": "one", "target": "一二三"}, {"source": "two", "target": "deux"})
    given, _ = setting(LeftToRight())
    with pytest.raises(ConfigError, match=r"evaluation\.translation\.path=.* contains translations into en and zh"):
        Translation(path=path).header(given)
    assert Translation(path=path, language="zh").header(given)["languages"] == ["zh"]


def test_the_prompt_of_a_dialogue_ends_with_the_next_speaker(tmp_path: Path, model: Any) -> None:
    turns = [{"speaker": "A", "content": "How are you?"}, {"speaker": "B", "content": "I am well."}]
    reading = Writes(lambda prompt: " I am very well.\nA: Good.")
    given, samples = setting(reading)
    row = Dialogue(path=rows(tmp_path, {"dialogue": turns})).measure(model, given, quiet)
    assert reading.read == ["A: How are you?\nB:"]
    assert samples[0]["prediction"] == "I am very well."
    assert row["rougeL"] == row["f1"] == pytest.approx(6 / 7)
    assert (row["n"], row["f1_standard_error"]) == (1, None)


@pytest.mark.slow
def test_the_likeliest_label_is_chosen_among_labels_of_different_lengths(tmp_path: Path, model: Any) -> None:
    classes = ["fine", "not so fine", "good"]
    texts = [("good food", "fine"), ("cold food", "not so fine"), ("good wine", "not so fine"), ("no wine", "good")]
    path = rows(tmp_path, *(asked(text, "", label, all_classes=classes) for text, label in texts))
    given, samples = setting(Asked())
    row = Classification(path=path).measure(model, given, quiet)
    chosen = {s["id"]: s["prediction"] for s in samples}
    assert sorted(chosen.values()) == ["fine", "fine", "not so fine", "not so fine"]
    assert row["accuracy"] == accuracy_score([label for _, label in texts], [chosen[f"{path}:{i}"] for i in range(1, 5)]) == 0.5
    assert set(samples[0]["log_probability"]) == set(classes)


@pytest.mark.slow
def test_the_log_probability_of_a_label_agrees_with_one_pass_over_the_whole_text(tmp_path: Path, model: Any) -> None:
    import torch

    path = rows(tmp_path, asked("some text", "", "a", all_classes=["a", "word"]))
    given, samples = setting(LeftToRight())
    Classification(path=path, template="{context}:").measure(model, given, quiet)
    for label in ("a", "word"):
        tokens = torch.from_numpy(ByteTokenizer().encode(f"some text: {label}"))
        with torch.no_grad():
            chances = model.network(tokens[None]).logits[0].double().log_softmax(-1)
        expected = sum(chances[i - 1, tokens[i]].item() for i in range(len("some text:"), len(tokens)))
        assert samples[0]["log_probability"][label] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_samples_that_cannot_be_read_have_no_figures(tmp_path: Path, model: Any) -> None:
    given, samples = setting(Silent())
    row = QuestionAnswering(path=rows(tmp_path, asked("text", "Who?", "he"))).measure(model, given, quiet)
    figures = ("exact_match", "f1", "named")
    assert row == {"n": 0} | dict.fromkeys(figures) | dict.fromkeys(f"{figure}_standard_error" for figure in figures)
    assert samples == []


@pytest.mark.slow
def test_a_masked_model_is_measured_by_classification_only(tmp_path: Path, model: Any) -> None:
    path = rows(tmp_path, asked("text", "Who?", "he", all_classes=["he", "she"]))
    given, _ = setting(FillIn(0.15))
    rule = r"evaluation\.question_answering=question_answering: needs a model that can generate text: a causal one, or an autoencoder"
    with pytest.raises(ConfigError, match=rule) as fault:
        QuestionAnswering(path=path).header(given)
    assert "use evaluation=[classification]" in str(fault.value)
    assert Classification(path=path).header(given)["n"] == 1
    # For a fresh model this is known before anything is loaded.
    masked = ["model=bert", "context=interpolate", "evaluation=[summarization]", f"evaluation.summarization.path={path}"]
    with pytest.raises(ConfigError, match=r"evaluation\.summarization=summarization: needs a model that can generate text"):
        build_job(*composed(*masked))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "context"), [("gpt", "yarn"), pytest.param("gpt2", "interpolate", marks=pytest.mark.grid), ("bert", "interpolate")]
)
def test_a_run_measures_its_tasks_and_so_does_evaluate(ran: Any, tmp_path: Path, word: str, context: str) -> None:
    path = rows(tmp_path, *(asked("text " * (5 + 20 * i), "Who?", "he", all_classes=["he", "she"]) for i in range(3)))
    tasks = ["classification"] if word == "bert" else ["classification", "question_answering"]
    settings = [f"evaluation.{task}.path={path}" for task in tasks]
    settings += [] if word == "bert" else ["evaluation.question_answering.max_new_tokens=4"]
    chosen = f"evaluation=[curve,needle,{','.join(tasks)}]"
    directory, results = ran("run", f"model={word}", "context.curriculum.base.steps=3", f"context={context}", chosen, *settings)
    for task in tasks:
        section = results[task]
        assert (section["n"], section["length"]) == (3, 128)
        assert section["truncated"] > 0
        assert all(section["after"][figure] is not None for figure in section["figures"])
        again = evaluated(directory.path, tmp_path / f"again-{task}", f"evaluation=[{task}]", *[s for s in settings if f".{task}." in s])
        assert again[task] == {key: value for key, value in section.items() if key not in ("before", "untuned")}
    page = (directory.path / "report.html").read_text()
    assert "<h2>Text tasks</h2>" in page
    assert all(task.replace("_", " ") in page for task in tasks)
