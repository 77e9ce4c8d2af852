"""Every figure against the tool that defines it, called directly, on unusual predictions."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from elongate.evaluation.text import estimates
from elongate.evaluation.text.classification import scores
from elongate.evaluation.text.estimates import DRAWS, bootstrapped, mean_of
from elongate.evaluation.text.question_answering import QuestionAnswering
from elongate.evaluation.text.records import Record, language_of
from elongate.evaluation.text.rouge import rouge
from elongate.evaluation.text.translation import Translation, _metrics
from elongate.evaluation.text.words import exact_match, f1, words_of

ENGLISH = [
    ("", ("the answer",)),
    ("The  Answer!", ("an answer", "answers")),
    ("answering, answers and answered", ("the answer", "He answered: answers.")),
    ("a an the", ("the",)),
    ("!?", ("308",)),
    ("U.S. dollars — 1,000", ("US dollars 1000", "$1,000")),
    ("one\ntwo  three\tfour", ("two three",)),
    ("naïve café Ω", ("naive cafe", "naïve café")),
    ("the cat sat on the mat", ("on the mat the cat sat", "the cat was sitting on a mat")),
]
CHINESE = [
    ("", ("黑豹队",)),
    ("黑豹队的防守", ("黑豹队的防守丢了 308 分。", "防守")),
    ("308分", ("308 分",)),
    ("“次数：136 次”", ("136次",)),
    ("NFL 联盟", ("国家橄榄球联盟 (NFL)", "联盟")),
    ("，。！", ("四次",)),
]


def record(references: tuple[str, ...], language: str, classes: tuple[str, ...] = ()) -> Record:
    return Record("0", "context", "question", references, language, classes)


# -- as published, for comparison: evaluate-v1.1.py of SQuAD, and mlqa_evaluation_v1.py for Chinese ---------------------------


def is_punctuation(ch: str) -> bool:
    return unicodedata.category(ch).startswith("P") or ch in string.punctuation


def squad_normalized(text: str) -> list[str]:
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split()).split()


def mlqa_normalized(text: str) -> list[str]:
    text = "".join(ch for ch in text.lower() if not is_punctuation(ch))
    segments, rest = [], ""
    for char in text:
        if re.search(r"[\u4e00-\u9fa5]", char) or is_punctuation(char):
            segments += rest.split()
            rest = ""
            segments.append(char)
        else:
            rest += char
    return " ".join(token for token in segments + rest.split() if token.strip() != "").split()


def published_f1(prediction: list[str], truth: list[str]) -> float:
    same = sum((Counter(prediction) & Counter(truth)).values())
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(prediction), 1.0 * same / len(truth)
    return (2 * precision * recall) / (precision + recall)


@pytest.mark.parametrize(("samples", "language", "normalized"), [(ENGLISH, "en", squad_normalized), (CHINESE, "zh", mlqa_normalized)])
def test_exact_match_and_f1_are_the_published_ones(samples: Any, language: str, normalized: Any) -> None:
    for prediction, references in samples:
        found = QuestionAnswering(path="none/none").score(prediction, record(references, language))
        pairs = [(normalized(prediction), normalized(reference)) for reference in references]
        assert found["exact_match"] == max(said == wanted for said, wanted in pairs)
        if all(said and wanted for said, wanted in pairs):
            assert found["f1"] == pytest.approx(max(published_f1(*pair) for pair in pairs), abs=1e-15)


def test_random_texts_have_the_published_words() -> None:
    random = np.random.default_rng(0)
    alphabet = list("the an a . , ! — “ 黑 豹 队 〇 龥 308 NFL café\n\t，、㐀")
    for _ in range(300):
        text = "".join(random.choice(alphabet, size=20))
        assert words_of(text, "en") == squad_normalized(text)
        assert words_of(text, "zh") == mlqa_normalized(text)


def test_an_empty_answer_is_right_for_an_empty_reference() -> None:
    assert (exact_match("the", "", "en"), f1("the", "", "en"), f1("word", "", "en"), f1("", "word", "en")) == (1, 1, 0, 0)


def test_chinese_is_scored_character_by_character() -> None:
    assert f1("黑豹队", "豹队黑", "zh") == 1
    assert f1("黑豹队", "黑豹队胜", "zh") == pytest.approx(2 * 3 / 7)
    assert f1("黑豹队", "黑豹队胜", "en") == 0


# -- ROUGE -------------------------------------------------------------------------------------------------------------------

FIGURES = ("rouge1", "rouge2", "rougeL")


def test_rouge_agrees_with_rouge_score() -> None:
    scorer = RougeScorer(list(FIGURES), use_stemmer=True)
    for prediction, references in ENGLISH:
        best = {figure: max(scorer.score(reference, prediction)[figure].fmeasure for reference in references) for figure in FIGURES}
        assert rouge(FIGURES, prediction, references, "en") == best


def test_rouge_of_chinese_agrees_with_rouge_score_on_characters() -> None:
    plain = RougeScorer(list(FIGURES))
    for prediction, references in CHINESE:
        # Replace each character by an ASCII word, which rouge-score can read.
        letters: dict[str, str] = {}
        spelled = [" ".join(letters.setdefault(word, f"w{len(letters)}") for word in mlqa_normalized(t)) for t in (prediction, *references)]
        best = {figure: max(plain.score(text, spelled[0])[figure].fmeasure for text in spelled[1:]) for figure in FIGURES}
        assert rouge(FIGURES, prediction, references, "zh") == best
    assert rouge(FIGURES, "黑豹队的防守", ("黑豹队的防守",), "zh") == dict.fromkeys(FIGURES, 1.0)
    assert rouge(FIGURES, "黑豹队的防守", ("黑豹队的防守",), "en") == dict.fromkeys(FIGURES, 0.0)  # the result without the language


# -- BLEU and chrF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "language", "tokenize"), [(ENGLISH, "en", "13a"), (CHINESE, "zh", "zh")])
def test_bleu_and_chrf_agree_with_sacrebleu(samples: Any, language: str, tokenize: str) -> None:
    predictions, records = [sample[0] for sample in samples], [record(sample[1], language) for sample in samples]
    task = Translation(path="none/none")
    found = task.estimates(predictions, records)
    most = max(len(references) for _, references in samples)
    streams = [[references[i] if i < len(references) else None for _, references in samples] for i in range(most)]
    bleu, chrf = sacrebleu.BLEU(tokenize=tokenize), sacrebleu.CHRF()
    assert found["bleu"][0] == bleu.corpus_score(predictions, streams).score > 0
    assert found["chrf"][0] == chrf.corpus_score(predictions, streams).score > 0
    assert task.signatures(records) == {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
    assert f"tok:{tokenize}" in str(bleu.get_signature())
    for prediction, one in zip(predictions, records, strict=True):
        assert task.score(prediction, one)["bleu"] == sacrebleu.sentence_bleu(prediction, list(one.references), tokenize=tokenize).score


def test_the_error_of_bleu_is_a_bootstrap_over_corpora() -> None:
    predictions, records = [sample[0] for sample in ENGLISH], [record(sample[1][:1], "en") for sample in ENGLISH]
    found = Translation(path="none/none").estimates(predictions, records)
    draws = np.random.default_rng(0).integers(len(records), size=(DRAWS, len(records)))
    for figure, metric in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())):
        values = []
        for draw in draws:
            references = [[records[i].references[0] for i in draw]]
            values.append(metric.corpus_score([predictions[i] for i in draw], references).score)
        assert found[figure][1] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    assert set(_metrics(records)) == {"bleu", "chrf"}


# -- labels ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_labels_are_scored_by_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "DRAWS", 2)  # of the errors, which are another test's
    random = np.random.default_rng(0)
    wanted, found = (random.choice(["good", "bad", "so, so", "未定"], size=60).tolist() for _ in range(2))
    figures = scores(wanted, found)
    assert figures["accuracy"][0] == pytest.approx(accuracy_score(wanted, found))
    assert figures["macro_f1"][0] == f1_score(wanted, found, average="macro")
    assert figures["matthews"][0] == matthews_corrcoef(wanted, found)
    # A class that is never predicted and one that is never a label count as 0, without a warning.
    assert scores(["a", "b"], ["b", "c"])["macro_f1"][0] == 0
    assert scores(["a", "a"], ["a", "a"])["matthews"][0] == 0


# -- errors of figures -------------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_a_mean_has_the_error_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(size=400)
    value, error = bootstrapped(lambda numbers: float(values[numbers].mean()), len(values))
    assert value == pytest.approx(mean_of(values.tolist())[0])
    assert error == pytest.approx(mean_of(values.tolist())[1], rel=0.15)
    assert bootstrapped(lambda numbers: 1.0, 1) == (1.0, None)
    assert mean_of([2.0]) == (2.0, None)


def test_the_language_is_detected_from_the_letters() -> None:
    assert language_of("他在 NFL 效力了 10 个赛季") == "zh"
    assert language_of("The name 黑豹队 means panthers, a team of the league") == "en"
    assert language_of("日本語の文章です") == "en"  # not scored as Chinese
    assert language_of("308") == "en"
