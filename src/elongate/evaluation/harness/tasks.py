"""Tasks of the lm-evaluation-harness, by name or by file. A task that cannot be measured is reported in one line before any work starts.

The data set of a task is on the hub, or in the local files that its YAML names, relative to the working directory.
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
MAX_NEW_TOKENS = 256  # default limit of the harness for a task without a limit of its own
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of that limit; the first one given is used
GREEDY = {"until", "do_sample", "temperature", "top_p", "top_k"}  # settings allowed with greedy decoding; the last two have no effect


def is_path(task: str) -> bool:
    """Whether the task is given as a file or folder rather than by name."""
    return "/" in task or Path(task).suffix in (".yaml", ".yml")


def files_of(task: str) -> dict[Path, str]:
    """The YAML files of a file or folder, each with what the harness loads for it: the name of a group, or the path of a task's file.

    Files in a folder that describe neither a task nor a group are skipped. Raises `ConfigError` for a file that is missing or malformed.
    """
    path = Path(task).expanduser()
    if path.is_dir():
        found = {file: named for file in sorted(path.glob("*.yaml")) if (named := _named_in(file))}
        require(bool(found), "tasks", path, "contains no YAML file of a task", REMEDY)
    else:
        found = {path: _named_in(path)}
        require(bool(found[path]), "tasks", path, "names neither a task nor a group", "add a line such as task: my_task")
    return {file: named.get("group", str(file)) for file, named in found.items()}


def load(tasks: list[str], num_fewshot: int | None) -> TaskDict:
    """The tasks with their data, and the requested groups. Raises `ConfigError` for a task that cannot be loaded."""
    files = {task: files_of(task) for task in tasks if is_path(task)}
    groups = [file for some in files.values() for file, spec in some.items() if spec != str(file)]
    # Indexing the harness's own tasks takes seconds, and a task in a file does not need them.
    folders = {Path(task).expanduser() for task in files if Path(task).expanduser().is_dir()} | {file.parent for file in groups}
    names = [task for task in tasks if task not in files]
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(folder) for folder in sorted(folders)], include_defaults=bool(names or groups))
    for name in names:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        remedy = f"did you mean {' or '.join(close)}?" if close else REMEDY
        require(name in manager.task_index, "tasks", name, "is not a task of the harness", remedy)
    if names and not hub_answers():
        remedy = "connect to the network, or set HF_HUB_OFFLINE=1 to use downloaded data sets"
        raise ConfigError("tasks", names, "their data sets are on the hub, which cannot be reached", remedy)
    found: TaskDict = {"tasks": {}, "groups": {}, "group_map": {}}
    for task in tasks:
        for where, spec in files.get(task, {task: task}).items():
            _add(found, str(where), spec, manager)
    for loaded in found["tasks"].values():
        _set_shots(loaded, num_fewshot)
    return found


def check_task(name: str, task: Any) -> None:
    """Raises `ConfigError` for a task that runs generated code or is not text-only."""
    unsafe = getattr(task, "UNSAFE_CODE", False)
    require(not unsafe, "tasks", name, "runs code that the model wrote, which is not supported", "leave it out")
    require(not getattr(task, "MULTIMODAL", False), "tasks", name, "contains images or sound, and models read only text", "leave it out")


def check_writing(name: str, settings: Mapping[str, Any], max_length: int, writes: bool) -> None:
    """Raises `ConfigError` if the model cannot generate text, or if the generated text leaves no room for a prompt."""
    require(writes, "tasks", name, "needs a model that can generate text, and this one cannot", "leave it out")
    num_tokens = new_tokens(name, settings)
    rule = f"lets the model write {num_tokens} tokens, which leaves no room for a question within {max_length}"
    require(num_tokens < max_length, "tasks", name, rule, "use a longer target length, or lower max_gen_toks in its generation_kwargs")


def new_tokens(name: str, settings: Mapping[str, Any]) -> int:
    """The number of tokens that a task lets the model generate. Raises `ConfigError` if the task asks for anything but greedy decoding."""
    # As in the harness, do_sample: false is greedy at any temperature.
    sampled = settings.get("do_sample", float(settings.get("temperature") or 0.0) > 0.0)
    others = {key: value for key, value in settings.items() if key not in (*GREEDY, *LIMITS)}
    unsupported = others | ({key: settings[key] for key in ("do_sample", "temperature") if key in settings} if sampled else {})
    rule = f"decodes with {', '.join(f'{key}: {value}' for key, value in unsupported.items())}, and only greedy decoding is supported"
    require(not unsupported, "tasks", name, rule, "use do_sample: false alone in its generation_kwargs, or leave it out")
    return int(next((settings[key] for key in LIMITS if settings.get(key) is not None), MAX_NEW_TOKENS))


@contextmanager
def faults_as_config_errors(task: str) -> Iterator[None]:
    """Turns exceptions of the harness, of a task's YAML and functions, and of `datasets` into one-line `ConfigError`s."""
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError

    try:
        yield
    except yaml.YAMLError as error:
        raise _malformed(error, task) from error
    except (DatasetsError, ConnectionError, FileNotFoundError) as error:
        missing = getattr(error, "filename", None)  # set only for a file that the YAML includes
        require(missing is None, "tasks", task, f"includes {missing}, which does not exist", "fix its YAML")
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
        raise ConfigError("tasks", task, rule, "fix its YAML, or leave it out") from error


def _add(found: TaskDict, task: str, spec: str, manager: TaskManager) -> None:
    with faults_as_config_errors(task):
        more = manager.load([spec])
    twice = sorted(found["tasks"].keys() & more["tasks"].keys())
    require(not twice, "tasks", task, f"contains the task {', '.join(twice)} a second time", "name it once")
    for part in ("tasks", "groups", "group_map"):
        found[part] |= more[part]


def _set_shots(task: Any, num_fewshot: int | None) -> None:
    """Sets the number of examples as the harness does: 0 by default, and a task that fixes 0 keeps it."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def _named_in(file: Path) -> dict[str, str]:
    """The values of `task` and `group` at the top level of a YAML file; lists are left out."""
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError("tasks", file, f"cannot be read ({error.strerror})", REMEDY) from error
    except UnicodeDecodeError as error:
        raise ConfigError("tasks", file, "is not UTF-8", "save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise _malformed(error, str(file)) from error
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    named = {key.value: value.value for key, value in pairs if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)}
    return {key: named[key] for key in ("task", "group") if key in named}


def _malformed(error: yaml.YAMLError, file: str) -> ConfigError:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ConfigError("tasks", file, f"is not valid YAML ({_reason(error)})", "fix it")
    mark = error.problem_mark
    name = file if mark.name.startswith("<") else mark.name
    return ConfigError("tasks", f"{name}:{mark.line + 1}", f"this line is not valid YAML ({error.problem})", "fix it")


def _reason(error: Exception) -> str:
    """The first line of the exception's cause if it has one: `datasets` only says that an error occurred while generating the dataset."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
