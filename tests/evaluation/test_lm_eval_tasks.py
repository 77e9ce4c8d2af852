"""Tasks of the harness that cannot be measured are refused in one line, before any work starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import manager
from tests.conftest import composed
from tests.evaluation.harness_tasks import ROLLING, WRITTEN, choices, of_bytes, task, written

from elongate.build import build_job
from elongate.errors import ConfigError
from elongate.evaluation.lm_eval import LmEval
from elongate.scoring.fill_in import FillIn


def named(folder: Path) -> dict[str, Any]:
    """Tasks that cannot be measured, by a short name."""
    (folder / "broken.yaml").write_text("task: a\ndataset_path: json\n  x: [1\n")
    (folder / "includes.yaml").write_text("include: broken.yaml\ntask: a\n")
    (folder / "alone.yaml").write_text("include: nowhere.yaml\ntask: a\n")
    (folder / "none.yaml").write_text("dataset_path: json\n")
    (folder / "empty").mkdir()
    documents = [{"question": "q", "answer": "a", "text": "t"}] * 3

    def one(name: str, **settings: Any) -> str:
        return task(folder, name, documents, **settings)

    def writes(name: str, **settings: Any) -> str:
        return one(name, **WRITTEN | {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 4} | settings})

    return {
        "nowhere": f"{folder}/nowhere.yaml",
        "broken": f"{folder}/broken.yaml",
        "none": f"{folder}/none.yaml",
        "empty": f"{folder}/empty",
        "includes": f"{folder}/includes.yaml",
        "alone": f"{folder}/alone.yaml",
        "hub": one("hub", **ROLLING, dataset_path="owner/name"),
        "nothing": task(folder, "nothing", [], **ROLLING),
        "data": one("data", **ROLLING, dataset_kwargs={"data_files": {"test": "nothing.jsonl"}}),
        "split": one("split", **ROLLING | {"test_split": "train"}),
        "typo": one("typo", **ROLLING, tset_split="test"),
        "kind": one("kind", **ROLLING | {"output_type": "loglikely"}),
        "field": one("field", **ROLLING | {"doc_to_target": "{{nothing}}"}),
        "code": one("code", **ROLLING, unsafe_code=True),
        "image": one("image", **ROLLING, doc_to_image="text"),
        "sampled": writes("sampled", do_sample=True, temperature=0.7),
        "warm": writes("warm", temperature=0.7),
        "beams": writes("beams", num_beams=4),
        "long": writes("long", max_gen_toks=128),
    }


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("nowhere", r"nowhere\.yaml: cannot be read \(No such file or directory\); give .*tasks names of tasks"),
        ("broken", r"broken\.yaml:3: this line is not valid YAML \(mapping values are not allowed here\); fix it"),
        ("none", r"none\.yaml: names neither a task nor a group; add a line such as task: my_task"),
        ("empty", r"empty: contains no YAML file of a task"),
        ("includes", r"broken\.yaml:3: this line is not valid YAML"),
        ("alone", r"alone\.yaml: includes .*/nowhere\.yaml, which does not exist; fix its YAML"),
        ("hub", r"hub\.yaml: its data set cannot be loaded \(Couldn't reach 'owner/name' on the Hub"),
        ("data", r"data\.yaml: its data set cannot be loaded \(Unable to find '.*nothing\.jsonl'\); check dataset_path and dataset_kwargs"),
        ("nothing", r"nothing\.yaml: "),
        ("split", r"split\.yaml: the harness cannot use it \(KeyError: 'train'\); fix its YAML"),
        ("typo", r"typo\.yaml: the harness cannot use it \(TypeError: .*'tset_split'\)"),
        ("kind", r"kind\.yaml: the harness cannot use it \(ValueError: Got invalid output_type 'loglikely'"),
        ("field", r"field\.yaml: the harness cannot use it \(UndefinedError: 'nothing' is undefined\)"),
        ("code", r"code: runs code that the model wrote, which is not supported; leave it out"),
        ("image", r"image: contains images or sound"),
        (
            "sampled",
            r"sampled: decodes with do_sample: True, temperature: 0\.7, and only greedy decoding is supported; use do_sample: false",
        ),
        ("warm", r"warm: decodes with temperature: 0\.7, and only greedy decoding is supported"),
        ("beams", r"beams: decodes with num_beams: 4, and only greedy decoding is supported"),
        ("long", r"long: lets the model write 128 tokens, which leaves no room for a question within 128; use a longer target length"),
    ],
)
def test_a_task_that_cannot_be_measured_is_one_line(word: str, line: str, tmp_path: Path) -> None:
    path = named(tmp_path)[word]
    with pytest.raises(ConfigError, match=rf"tasks=(.*/)?{line}") as fault:
        LmEval(tasks=[path]).header(of_bytes())
    assert "\n" not in str(fault.value)
    assert fault.value.inside("evaluation.lm_eval").key == "evaluation.lm_eval.tasks"


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"do_sample": False, "temperature": 1.0}, {"top_p": 0.9}])
def test_settings_that_the_harness_decodes_greedily_are_accepted(settings: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, generation_kwargs={"until": ["\n"], "max_new_tokens": 4} | settings)
    assert LmEval(tasks=[path]).header(of_bytes())["written"]["n"] == 10


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tasks": []}, "tasks=[]: must name at least one task; use tasks=[hellaswag]"),
        ({"limit": 0}, "limit=0: must be at least 1; use limit=null for all"),
        ({"num_fewshot": -1}, "num_fewshot=-1: must be at least 0; use num_fewshot=null"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as fault:
        LmEval(**{"tasks": ["hellaswag"]} | settings)
    assert str(fault.value) == line


def test_more_examples_than_documents_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.lm_eval\.tasks=written: the harness cannot use it"):
        LmEval(tasks=[written(tmp_path)], num_fewshot=40).header(of_bytes())


def test_a_task_given_twice_or_named_like_a_key_of_the_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"written\.yaml: contains the task written a second time; name it once"):
        LmEval(tasks=[written(tmp_path), str(tmp_path)]).header(of_bytes())
    path = task(tmp_path, "limit", [{"text": "t"}], **ROLLING)
    with pytest.raises(ConfigError, match=r"evaluation\.lm_eval\.tasks=\[limit\]: is a name that the results need themselves"):
        LmEval(tasks=[path]).header(of_bytes())


def test_a_task_that_fixes_zero_examples_keeps_zero(tmp_path: Path) -> None:
    fixed = task(tmp_path, "fixed", [{"text": "t"}] * 3, **ROLLING, num_fewshot=0)
    header = LmEval(tasks=[choices(tmp_path, num_fewshot=1), fixed], num_fewshot=2).header(of_bytes())
    assert [header[name]["num_fewshot"] for name in header["tasks"]] == [2, 0]
    header = LmEval(tasks=[choices(tmp_path, num_fewshot=1)], limit=5).header(of_bytes())
    assert header["choices"] == {"version": 1.0, "kind": "multiple_choice", "num_fewshot": 1, "n": 5, "records": 12}
    assert header["n"] == 5


def test_a_model_that_reads_both_sides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.lm_eval=lm_eval: needs a model that reads from left to right") as fault:
        LmEval(tasks=[written(tmp_path)]).header(of_bytes(reading=FillIn(0.15)))
    assert "use evaluation=[classification]" in str(fault.value)
    # For a fresh model this is known before anything is loaded.
    masked = ["model=bert", "context=interpolate", "evaluation=[lm_eval]", "evaluation.lm_eval.tasks=[hellaswag]"]
    with pytest.raises(ConfigError, match=r"evaluation\.lm_eval=lm_eval: needs a model that reads from left to right"):
        build_job(*composed(*masked))


def test_a_missing_harness_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elongate.evaluation.lm_eval.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"evaluation\.lm_eval=lm_eval: needs lm-evaluation-harness, which is not installed") as fault:
        build_job(*composed("evaluation=[lm_eval]", "evaluation.lm_eval.tasks=[hellaswag]"))
    assert str(fault.value).endswith("install it: python -m pip install lm-eval")


@pytest.mark.slow
def test_an_unknown_task_is_refused_with_the_nearest_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The harness reads 14,000 files to list its tasks; those of one task show as much.
    shutil.copytree(Path(manager.__file__).parent / "hellaswag", tmp_path / "hellaswag")
    monkeypatch.setattr(manager, "__file__", str(tmp_path / "manager.py"))
    with pytest.raises(ConfigError, match=r"evaluation\.lm_eval\.tasks=hellaswg: is not a task of the harness; did you mean hellaswag\?"):
        LmEval(tasks=["hellaswg"]).header(of_bytes())
