"""Tasks of EleutherAI's lm-evaluation-harness (Gao et al. 2024, doi:10.5281/zenodo.12608602) on the loaded model.

Prompts, metrics and their standard errors are those of the harness. Log-probabilities and texts come from
this project's own reading of the model, so positions and attention that plain transformers cannot express are
measured too. Decoding is greedy, without a chat template. Bootstrapped standard errors use 1,000 draws
instead of 100,000, which determines them to 2%.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from numbers import Real
from typing import TYPE_CHECKING, Any

from elongate.errors import ConfigError, inside, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.harness.isolation import isolated
from elongate.evaluation.harness.tasks import check_task, check_writing, faults_as_config_errors, files_of, is_path, load
from elongate.evaluation.presentation.harness import HarnessPresentation

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks.manager import TaskDict

    from elongate.evaluation.harness.model import HarnessModel
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer

DRAWS = 1000  # of a bootstrap


@dataclass(frozen=True, kw_only=True)
class LmEval(HarnessPresentation, Evaluation):
    """The figures that the harness computes for its tasks."""

    tasks: list[str]  # tasks, groups or tags of the harness, YAML files of tasks, or folders of such files; at least one
    # Examples before each question, at least 0; null: each task's own. A task that fixes 0 keeps it.
    num_fewshot: int | None = None
    limit: int | None = None  # documents of each task, the first ones, at least 1; null: all
    prefix_token_id: int | None = None  # precedes a text without context; null: the tokenizer's BOS, or its EOS without one

    def __post_init__(self) -> None:
        rule, remedy = "needs lm-evaluation-harness, which is not installed", "install it: python -m pip install lm-eval"
        require(find_spec("lm_eval") is not None, "", self.word, rule, remedy)
        require(bool(self.tasks), "tasks", self.tasks, "must name at least one task", "use {key}=[hellaswag]")
        valid = self.num_fewshot is None or self.num_fewshot >= 0
        require(valid, "num_fewshot", self.num_fewshot, "must be at least 0", "use {key}=null")
        require(self.limit is None or self.limit > 0, "limit", self.limit, "must be at least 1", "use {key}=null for all")
        for task in filter(is_path, self.tasks):
            # Report faults in a file before anything else is loaded or trained.
            files_of(task)

    def check(self, reading: Scorer) -> None:
        if reading.two_sided:
            rule = "needs a model that reads from left to right: this one reads both sides, and has no probability of a text as a whole"
            raise ConfigError(f"evaluation.{self.word}", self.word, rule, "use evaluation=[classification], which supports such models")

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        prefix, size = self.prefix_token_id, setting.tokenizer.vocab_size
        rule, remedy = f"must be a token of the tokenizer, from 0 to {size - 1}", "use {key}=null for its BOS or EOS"
        require(prefix is None or 0 <= prefix < size, f"evaluation.{self.word}.prefix_token_id", prefix, rule, remedy)
        with inside(f"evaluation.{self.word}"):
            tasks = self._loaded["tasks"]
            for name, task in tasks.items():
                check_task(name, task)
            for request in self._requests(limit=1).get("generate_until", []):
                check_writing(str(request.task_name), request.args[1], setting.target_length, setting.reading.writes)
        with isolated():
            about = {name: self._about(task) for name, task in tasks.items()}
        groups = {name: group for name, group in self._loaded["groups"].items() if group.has_aggregation}
        known = {"harness": version("lm-eval"), "length": setting.target_length, "num_fewshot": self.num_fewshot, "limit": self.limit}
        known |= {"n": sum(one["n"] for one in about.values()), "tasks": [*tasks, *groups]}
        about |= {name: {"version": group.version, "subtasks": group.child_names} for name, group in groups.items()}
        taken = sorted(known.keys() & about.keys())
        require(not taken, f"evaluation.{self.word}.tasks", taken, "is a name that the results need themselves", "name the task otherwise")
        return known | about

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        from elongate.evaluation.harness.model import HarnessModel

        model.network.eval()
        asked = HarnessModel(model, setting, lambda text: tick(f"{self.word} {text}"), self.prefix_token_id)
        for kind, requests in self._requests(self.limit).items():
            # Answer here, where progress and faults are reported; the harness then finds all its requests answered.
            getattr(asked, kind)(requests)
        found = self._scored(asked)
        groups = self._loaded["groups"]
        unread = asked.unread | {
            name for name, group in groups.items() if asked.unread & {task.task_name for task in group.get_all_tasks()}
        }
        scored = [(name, document) for name, documents in found["samples"].items() if name not in unread for document in documents]
        setting.samples.add({f"{name}/{one['filter']}/{one['doc_id']}": _sample(name, one) for name, one in scored})
        return {
            name: {"n": 0} if name in unread else _row(metrics)
            for name, metrics in found["results"].items()
            if name not in groups or groups[name].has_aggregation
        }

    @cached_property
    def _loaded(self) -> TaskDict:
        with isolated():
            return load(self.tasks, self.num_fewshot)

    def _about(self, task: Any) -> dict[str, Any]:
        records = len(task.eval_docs)
        known = {"version": task.VERSION, "kind": task.OUTPUT_TYPE, "num_fewshot": task.get_config("num_fewshot")}
        return known | {"n": records if self.limit is None else min(self.limit, records), "records": records}

    def _requests(self, limit: int | None) -> dict[str, list[Instance]]:
        """The requests of the first `limit` documents of each task, by kind."""
        requests: defaultdict[str, list[Instance]] = defaultdict(list)
        self._seed()
        with isolated(), inside(f"evaluation.{self.word}"):
            for name, task in self._loaded["tasks"].items():
                with faults_as_config_errors(name):
                    task.build_all_requests(limit=limit)
                for request in task.instances:
                    requests[request.request_type].append(request)
        return requests

    def _scored(self, asked: HarnessModel) -> dict[str, Any]:
        from lm_eval.evaluator import evaluate

        self._seed()
        with isolated(), inside(f"evaluation.{self.word}"), faults_as_config_errors(", ".join(self.tasks)):
            return evaluate(asked, self._loaded, limit=self.limit, bootstrap_iters=DRAWS)

    def _seed(self) -> None:
        """Every model gets the same few-shot examples, which are those of the harness's own default."""
        from lm_eval.defaults import DEFAULT_OTHER_SEED

        for task in self._loaded["tasks"].values():
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _row(metrics: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a task in our words: "acc,none" is `acc`, "acc_stderr,none" is `acc_standard_error`."""
    row: dict[str, Any] = {"n": metrics["sample_len"]}
    for key, value in metrics.items():
        metric, comma, pipeline = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
            continue
        figure = metric if pipeline == "none" else f"{metric},{pipeline}"
        row[figure] = _finite(value)
        row[f"{figure}_standard_error"] = _finite(metrics.get(f"{metric}_stderr,{pipeline}"))
    return row


def _sample(task: str, document: dict[str, Any]) -> dict[str, Any]:
    """The figures of one document; a figure that is a ratio over documents has none."""
    scores = {metric: _finite(document[metric]) for metric in document["metrics"] if isinstance(document[metric], Real)}
    return {"task": task, "document": document["doc_id"], "score": scores}


def _finite(value: Any) -> float | None:
    """None for figures that the harness does not know ("N/A") and for values that JSON cannot contain."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None
