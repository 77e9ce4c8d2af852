"""Tasks of the lm-evaluation-harness, by name or by file; what cannot be measured is told in one line before anything is.

The data set of a task is looked for on the hub, or among the local files that its YAML names, relative to the working directory.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from elongate.errors import ConfigError, require
from elongate.hub import hub_answers

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict

REMEDY = "give {key} names of tasks (lm_eval ls tasks), YAML files of tasks or folders of such files"
MAX_NEW_TOKENS = 256  # that the harness lets a model write where a task does not say
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of that number, the first one counts
GREEDY = {"until", "do_sample", "temperature", "top_p", "top_k"}  # what a task may say of its writing: the last two change nothing


def is_path(task: str) -> bool:
    return "/" in task or Path(task).suffix in (".yaml", ".yml")


def files_of(task: str) -> dict[Path, str]:
    """The file, or those in the folder that describe a task or a group, and what the harness is to load for each: groups go by name.

    Raises `ConfigError` for one that is missing or malformed.
    """
    path = Path(task).expanduser()
    if path.is_dir():
        found = {file: named for file in sorted(path.glob("*.yaml")) if (named := _named_in(file))}
        require(bool(found), "tasks", path, "holds no YAML file of a task", REMEDY)
    else:
        found = {path: _named_in(path)}
        require(bool(found[path]), "tasks", path, "names neither a task nor a group", "add a line to it, as in task: my_task")
    return {file: named.get("group", str(file)) for file, named in found.items()}


def load(tasks: list[str], num_fewshot: int | None) -> TaskDict:
    """The tasks with their data, and the groups that they were asked for by. Raises `ConfigError`."""
    files = {task: files_of(task) for task in tasks if is_path(task)}
    groups = [file for some in files.values() for file, spec in some.items() if spec != str(file)]
    # A task in a file of its own needs no others: to look through all that the harness has takes a while.
    folders = {Path(task).expanduser() for task in files if Path(task).expanduser().is_dir()} | {file.parent for file in groups}
    names = [task for task in tasks if task not in files]
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(folder) for folder in sorted(folders)], include_defaults=bool(names or groups))
    for name in names:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        remedy = f"did you mean {' or '.join(close)}?" if close else REMEDY
        require(name in manager.task_index, "tasks", name, "is no task of the harness", remedy)
    if names and not hub_answers():
        remedy = "connect to the network, or set HF_HUB_OFFLINE=1 to use what was downloaded before"
        raise ConfigError("tasks", names, "their data sets are on the hub, which cannot be reached", remedy)
    found: TaskDict = {"tasks": {}, "groups": {}, "group_map": {}}
    for task in tasks:
        for where, spec in files.get(task, {task: task}).items():
            _add(found, str(where), spec, manager)
    for loaded in found["tasks"].values():
        _set_shots(loaded, num_fewshot)
    return found


def check_task(name: str, task: Any) -> None:
    """Raises `ConfigError` for a task that no model can be measured on here."""
    unsafe = getattr(task, "UNSAFE_CODE", False)
    require(not unsafe, "tasks", name, "runs code that the model wrote, which is not done here", "leave it out")
    require(not getattr(task, "MULTIMODAL", False), "tasks", name, "shows images or sounds, and the model reads text", "leave it out")


def check_writing(name: str, settings: Mapping[str, Any], max_length: int, writes: bool) -> None:
    """Raises `ConfigError` where a task lets write what cannot be written."""
    require(writes, "tasks", name, "needs text that is written, which this model does not", "leave it out")
    num_tokens = new_tokens(name, settings)
    rule = f"lets the model write {num_tokens} tokens, which leaves no room for a question within {max_length}"
    require(num_tokens < max_length, "tasks", name, rule, "use a longer target length, or lower max_gen_toks in its generation_kwargs")


def new_tokens(name: str, settings: Mapping[str, Any]) -> int:
    """How many a task lets the model write. Raises `ConfigError` where it is not to take the likeliest token each time."""
    # As in the harness, do_sample: false is greedy whatever the temperature.
    sampled = settings.get("do_sample", float(settings.get("temperature") or 0.0) > 0.0)
    others = {key: value for key, value in settings.items() if key not in (*GREEDY, *LIMITS)}
    told = others | ({key: settings[key] for key in ("do_sample", "temperature") if key in settings} if sampled else {})
    rule = f"is written with {', '.join(f'{key}: {value}' for key, value in told.items())}, and here decoding is greedy"
    require(not told, "tasks", name, rule, "use do_sample: false alone in its generation_kwargs, or leave it out")
    return int(next((settings[key] for key in LIMITS if settings.get(key) is not None), MAX_NEW_TOKENS))


@contextmanager
def told_in_a_line(task: str) -> Iterator[None]:
    """Every fault of a task: what the harness, its YAML, the functions that it names and `datasets` raise."""
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError

    try:
        yield
    except yaml.YAMLError as error:
        raise _malformed(error, task) from error
    except (DatasetsError, ConnectionError, FileNotFoundError) as error:
        missing = getattr(error, "filename", None)  # a file that was opened by its name is one that the YAML includes
        require(missing is None, "tasks", task, f"includes {missing}, which is not there", "mend its YAML")
        rule = f"its data set cannot be loaded ({_reason(error)})"
        raise ConfigError("tasks", task, rule, "check dataset_path and dataset_kwargs of the task, and the network") from error
    except (
        StopIteration,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ImportError,
        OSError,
        ArithmeticError,
        TemplateError,
    ) as error:
        rule = f"the harness cannot use it ({type(error).__name__}: {_reason(error)})"
        raise ConfigError("tasks", task, rule, "mend its YAML, or leave it out") from error


def _add(found: TaskDict, task: str, spec: str, manager: TaskManager) -> None:
    with told_in_a_line(task):
        more = manager.load([spec])
    twice = sorted(found["tasks"].keys() & more["tasks"].keys())
    require(not twice, "tasks", task, f"brings the task {', '.join(twice)} a second time", "name it once")
    for part in ("tasks", "groups", "group_map"):
        found[part] |= more[part]


def _set_shots(task: Any, num_fewshot: int | None) -> None:
    """As the harness does: what a task leaves open is 0, and a task that says 0 means it."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def _named_in(file: Path) -> dict[str, str]:
    """The values of `task` and `group` at the top of a YAML file, by which it describes one; a list has none."""
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError("tasks", file, f"cannot be read ({error.strerror})", REMEDY) from error
    except UnicodeDecodeError as error:
        raise ConfigError("tasks", file, "is not UTF-8", "mend it") from error
    except yaml.YAMLError as error:
        raise _malformed(error, str(file)) from error
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    named = {key.value: value.value for key, value in pairs if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)}
    return {key: named[key] for key in ("task", "group") if key in named}


def _malformed(error: yaml.YAMLError, file: str) -> ConfigError:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ConfigError("tasks", file, f"is no YAML ({_reason(error)})", "mend it")
    mark = error.problem_mark
    name = file if mark.name.startswith("<") else mark.name
    return ConfigError("tasks", f"{name}:{mark.line + 1}", f"this line is no YAML ({error.problem})", "mend it")


def _reason(error: Exception) -> str:
    """ "An error occurred while generating the dataset" says nothing; what caused it does."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
