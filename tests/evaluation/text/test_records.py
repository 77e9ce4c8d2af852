"""Files of tasks: the records that are read from them, and the errors for files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elongate.errors import ConfigError
from elongate.evaluation.text.classification import Classification
from elongate.evaluation.text.dialogue import Dialogue
from elongate.evaluation.text.question_answering import QuestionAnswering
from elongate.evaluation.text.records import Record, drawn
from elongate.evaluation.text.summarization import Summarization
from elongate.evaluation.text.translation import Translation

LONGBENCH = {
    "input": "Who?",
    "context": "A text.",
    "answers": ["He", "him"],
    "length": 2,
    "dataset": "x",
    "language": "en",
    "all_classes": ["He", "She"],
    "_id": "7f",
}


def written(folder: Path, content: Any, name: str = "a.jsonl", indent: int | None = None) -> str:
    text = content if isinstance(content, str) else "".join(json.dumps(row, ensure_ascii=False, indent=indent) + "\n" for row in content)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def squad(*texts: tuple[str, str, str], ids: str = "q") -> dict[str, Any]:
    """A paragraph, a question and its answer each."""
    asked = [[{"id": f"{ids}{i}", "question": q, "answers": [{"text": a, "answer_start": 0}]}] for i, (_, q, a) in enumerate(texts)]
    return {"version": "1.1", "data": [{"paragraphs": [{"context": c, "qas": qas}]} for (c, _, _), qas in zip(texts, asked, strict=True)]}


def test_every_task_reads_longbench_unchanged(tmp_path: Path) -> None:
    path = written(tmp_path, [LONGBENCH])
    for task in (Summarization, QuestionAnswering, Translation, Dialogue, Classification):
        assert task(path=path).records == [Record("7f", "A text.", "Who?", ("He", "him"), "en", ("He", "She"))]
    nothing_to_choose = written(tmp_path, [LONGBENCH | {"all_classes": None, "language": "zh"}])
    assert QuestionAnswering(path=nothing_to_choose).records == [Record("7f", "A text.", "Who?", ("He", "him"), "zh")]


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_is_read_from_one_line_or_many(tmp_path: Path, indent: int | None) -> None:
    path = written(tmp_path, [squad(("One text.", "Which?", "One"), ("黑豹队的防守", "哪个队？", "黑豹队"))], "s.json", indent)
    expected = [
        Record("q0", "One text.", "Which?", ("One",), "en"),
        Record("q1", "黑豹队的防守", "哪个队？", ("黑豹队",), "zh"),
    ]
    assert QuestionAnswering(path=path).records == expected
    assert {r.language for r in QuestionAnswering(path=path, language="zh").records} == {"zh"}


def test_the_reference_of_an_impossible_question_is_empty(tmp_path: Path) -> None:
    file = squad(("One text.", "Which?", "One"))
    file["data"][0]["paragraphs"][0]["qas"][0] |= {"is_impossible": True, "answers": []}
    (record,) = QuestionAnswering(path=written(tmp_path, [file])).records
    assert record.references == ("",)


def test_qmsum_gives_one_record_per_query_with_the_whole_meeting(tmp_path: Path) -> None:
    meeting = {
        "topic_list": [],
        "general_query_list": [{"query": "Summarize.", "answer": "All."}],
        "specific_query_list": [{"query": "What of it?", "answer": "A part.", "relevant_text_span": [["0", "1"]]}],
        "meeting_transcripts": [{"speaker": "A", "content": "Hello."}, {"speaker": "B", "content": "Bye."}],
    }
    path = written(tmp_path, [meeting])
    records = Summarization(path=path).records
    assert [(r.context, r.question, r.references) for r in records] == [
        ("A: Hello.\nB: Bye.", "Summarize.", ("All.",)),
        ("A: Hello.\nB: Bye.", "What of it?", ("A part.",)),
    ]
    assert len({r.id for r in records}) == 2


def test_translations_are_read_from_pairs_and_from_parallel_files(tmp_path: Path) -> None:
    pairs = written(tmp_path, [{"source": "One.", "target": "一。"}, {"source": "Two.", "target": ["二。", "两。"]}])
    assert [(r.context, r.references, r.language) for r in Translation(path=pairs).records] == [
        ("One.", ("一。",), "zh"),
        ("Two.", ("二。", "两。"), "zh"),
    ]
    hub = written(tmp_path, [{"translation": {"en": "One.", "de": "Eins."}}], "hub.jsonl")
    assert [(r.context, r.references, r.language) for r in Translation(path=hub).records] == [("One.", ("Eins.",), "de")]
    source = written(tmp_path, [squad(("One text.", "?", "One"), ("Two.", "?", "T"))], "en.json")
    target = written(tmp_path, [squad(("一段。", "？", "一"), ("二。", "？", "二"))], "zh.json")
    assert [(r.context, r.references, r.language) for r in Translation(path=[source, target]).records] == [
        ("One text.", ("一段。",), "zh"),
        ("Two.", ("二。",), "zh"),
    ]


def test_the_last_turn_of_a_dialogue_is_the_reference(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
    path = written(tmp_path, [{"messages": turns}, {"dialogue": ["Hello?", "Who is it?", "I."]}])
    assert [(r.context, r.question, r.references) for r in Dialogue(path=path).records] == [
        ("user: Hello?", "assistant:", ("Hello.",)),
        ("Hello?\nWho is it?", "", ("I.",)),
    ]


def test_a_parquet_folder_is_read_by_datasets_and_labels_get_their_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    rows = datasets.Dataset.from_dict({"text": ["I like it.", "I do not."], "label": [1, 0]}, features=features)
    folder = tmp_path / "reviews"
    folder.mkdir()
    rows.to_parquet(folder / "test-00000.parquet")
    records = Classification(path=str(folder)).records
    assert [(r.context, r.references, r.classes) for r in records] == [
        ("I like it.", ("good",), ("bad", "good")),
        ("I do not.", ("bad",), ("bad", "good")),
    ]
    questions = tmp_path / "questions"
    questions.mkdir()
    asked = {"id": ["a"], "context": ["A text."], "question": ["Which?"], "answers": [{"text": ["A", "One"], "answer_start": [0, 0]}]}
    datasets.Dataset.from_dict(asked).to_parquet(questions / "test.parquet")
    assert QuestionAnswering(path=str(questions)).records == [Record("a", "A text.", "Which?", ("A", "One"), "en")]


def test_a_larger_draw_of_the_same_seed_includes_a_smaller_one() -> None:
    records = [Record(str(i), "c", "", ("r",), "en") for i in range(40)]
    ids = [[r.id for r in drawn(records, count, seed)] for count, seed in ((10, 0), (20, 0), (10, 1))]
    assert set(ids[0]) < set(ids[1])
    assert ids[0] != ids[2]
    assert ids[1] == sorted(ids[1], key=int)
    assert drawn(records, 50, 0) == records


GOOD = json.dumps(LONGBENCH)
BAD = [
    (QuestionAnswering, "", "is empty"),
    (QuestionAnswering, "\n \n", "is empty"),
    (QuestionAnswering, GOOD + "\n{\n", r"a\.jsonl:2: this line is not JSON \(Expecting property name"),
    (QuestionAnswering, GOOD + "\n\n[1]\n", r"a\.jsonl:3: is a list, not an object"),
    (QuestionAnswering, '{"data": [\n{"paragraphs": }]}', r"a\.jsonl:2: this line is not JSON \(Expecting value at column 16\)"),
    (QuestionAnswering, "no json at all", r"a\.jsonl:1: this line is not JSON"),
    (
        QuestionAnswering,
        json.dumps({"question": "?", "context": "c"}),
        r"a\.jsonl:1: is not a record of this task, which needs the fields context",
    ),
    (QuestionAnswering, GOOD + "\n" + json.dumps(LONGBENCH | {"answers": []}), r"a\.jsonl:2: has no reference: its answers is empty"),
    (QuestionAnswering, json.dumps(LONGBENCH | {"answers": [" "]}), r"a\.jsonl:1: has no reference"),
    (QuestionAnswering, json.dumps(LONGBENCH | {"context": 5}), r"a\.jsonl:1: its context is a int, not a text"),
    (QuestionAnswering, json.dumps(LONGBENCH | {"context": " "}), "has no text to read"),
    (QuestionAnswering, json.dumps({"data": [{"paragraphs": [{"context": "c"}]}]}), r"data\[0\]\.paragraphs\[0\]: its qas is missing"),
    (QuestionAnswering, json.dumps({"data": []}), "contains no records"),
    (Summarization, json.dumps({"source": "a", "target": ""}), r"a\.jsonl:1: has no reference: its target is empty"),
    (Classification, json.dumps(LONGBENCH | {"all_classes": None}), r"a\.jsonl:1: has no classes to choose from; list them in all_classes"),
    (Classification, json.dumps(LONGBENCH | {"answers": ["It"]}), r"a\.jsonl:1: its label It is not one of its classes"),
    (
        Dialogue,
        json.dumps({"messages": [{"role": "user", "content": "Hi"}]}),
        r"a\.jsonl:1: its messages has 1 turns, and at least 2 are needed",
    ),
    (Translation, json.dumps(squad(("a", "b", "c"))), "must be two parallel files in SQuAD's format"),
]


@pytest.mark.parametrize(("task", "content", "line"), BAD)
def test_a_malformed_file_is_one_line_with_its_place(tmp_path: Path, task: Any, content: str, line: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=line) as fault:
        task(path=path)
    assert str(fault.value).startswith(f"evaluation.{task.word}.path=")
    assert "\n" not in str(fault.value)


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD.encode() + b'\n{"input": "\xff"}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: this line is not UTF-8"):
        QuestionAnswering(path=str(tmp_path / "a.jsonl"))


def test_files_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path, [squad(("One text.", "?", "One"), ("Two.", "?", "T"))], "en.json")
    with pytest.raises(ConfigError, match="they have 2 and 1 paragraphs"):
        Translation(path=[source, written(tmp_path, [squad(("一段。", "？", "一"))], "zh.json")])
    others = squad(("一段。", "？", "一"), ("二。", "？", "二"), ids="other")
    with pytest.raises(ConfigError, match=r"zh\.json:1\.data\[0\]\.paragraphs\[0\]: does not have the same questions as"):
        Translation(path=[source, written(tmp_path, [others], "zh.json")])


def test_a_missing_file_and_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        QuestionAnswering(path=str(tmp_path / "none.jsonl"))
    path = written(tmp_path, [LONGBENCH])
    for settings, line in (
        ({"num_samples": 0}, "num_samples=0: must be at least 1"),
        ({"length": 1}, "length=1: must be at least 2"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
        ({"language": "Chinese"}, "language=Chinese: must be a code of two or three lower-case letters"),
        ({"template": "{question}"}, "template='{question}': must contain {context} once"),
        ({"template": "{context} {text}"}, "and no other fields than context, question, classes"),
        ({"template": "{context} {"}, "must contain {context} once"),
    ):
        with pytest.raises(ConfigError) as fault:
            QuestionAnswering(path=path, **settings)
        assert line in str(fault.value)


def test_a_missing_package_is_refused_with_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elongate.evaluation.text.task.find_spec", lambda module: None)
    path = written(tmp_path, [LONGBENCH])
    for task, package in ((Summarization, "rouge-score"), (Translation, "sacrebleu"), (Classification, "scikit-learn")):
        with pytest.raises(ConfigError) as fault:
            task(path=path)
        line = str(fault.value.inside(f"evaluation.{task.word}"))
        assert line.startswith(f"evaluation.{task.word}={task.word}: needs {package}, which is not installed; install it: ")
        assert line.endswith(f"pip install {package}")
    assert QuestionAnswering(path=path).records
