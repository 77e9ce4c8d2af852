"""The console commands. Nothing here imports torch at its start, so help, completion and errors take a second."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.arguments import check_arguments, config_directories, name_plan, remove_dashes, rerun_arguments
from elongate.choices import Choices
from elongate.errors import ConfigError, ElongateError, RunError, Stopped, require
from elongate.process import prepare_process

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from elongate.evaluation.evaluation import Evaluation

Task = Callable[["DictConfig"], float | None]  # returns the figure that a search optimizes

_GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # the only sweeper that needs no figure


def train() -> None:
    """The command `elongate-train`, and `python train.py`."""
    _run_hydra("train", _train)


def evaluate() -> None:
    """The command `elongate-evaluate`, and `python evaluate.py`."""
    _run_hydra("evaluate", _evaluate)


def check() -> None:
    """The command `elongate-check`: verifies a position or attention of the user's own on tiny models."""
    _run_plain(_check)


def env() -> None:
    """The command `elongate-env`: prints versions, device and settings for a bug report."""
    _run_plain(_env)


def conf_directory() -> Path:
    """The directory of YAML files: next to the modules in an installed package, at the top of a clone."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


# -- the commands ----------------------------------------------------------------------------------------------------------


def _train(config: DictConfig) -> float | None:
    from elongate.build import build_job, plan_options
    from elongate.console import say
    from elongate.training.run_directory import RunDirectory

    directory = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    if not plan_options(config).is_wanted:
        say(f"run directory: {directory.path}")  # before the imports, which take a second
    from elongate.report.scalars import metric
    from elongate.report.table import terminal_table
    from elongate.training.plan import plan
    from elongate.training.run import run

    job = build_job(config, HydraConfig.get().runtime.choices, _command_line())
    _require_one_process()
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        rule = "is not set, and this sweeper optimizes a figure"
        require(not _searches() or job.sweep.metric is not None, "sweep.metric", None, rule, "use {key}=curve/after/512-1024")
        job = replace(job, tracking=job.tracking.in_sweep(Path(HydraConfig.get().sweep.dir).name))
    if job.plan.is_wanted:
        say(plan(job))
        return None
    with directory.locked():
        try:
            results = run(job, directory)
        finally:
            # While holding the lock: the directory looks unused while another process trains its base.
            directory.remove_if_unused()
    say(terminal_table(results, job.evaluations))
    say(f"report: {directory.path / 'report.html'}    model: {directory.model}")
    _check_failures(results, job.evaluations)
    return None if job.sweep.metric is None else metric(results, job.evaluations, job.sweep.metric)


def _evaluate(config: DictConfig) -> None:
    from elongate.console import say
    from elongate.evaluate import evaluate_checkpoint
    from elongate.report.table import terminal_table

    directory = Path(HydraConfig.get().runtime.output_dir)
    results, evaluations = evaluate_checkpoint(config, conf_directory(), directory)
    say(terminal_table(results, evaluations))
    say(f"report: {directory / 'report.html'}")
    _check_failures(results, evaluations)


def _check_failures(results: dict[str, Any], evaluations: tuple[Evaluation, ...]) -> None:
    """Raise `RunError` if an evaluation has failed, such as a gate. Call last, after everything is written and shown."""
    from elongate.report.verdict import failures

    for reason in failures(results, evaluations):
        raise RunError(reason)


def _check(arguments: list[str]) -> None:
    from elongate.check.command import check as run_checks

    run_checks(arguments)


def _env(arguments: list[str]) -> None:
    from elongate.environment import describe_environment

    require(not arguments, "command line", " ".join(arguments), "is not understood", "elongate-env takes no arguments")
    print("\n".join(describe_environment()))


class SweepComparison(Callback):
    """Writes the page that compares all runs of a sweep. Hydra calls it after a multirun."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from elongate.report.comparison import comparison_summary, write_comparison

        sweep = Path(config.hydra.sweep.dir)
        if (page := write_comparison(sweep)) is not None:
            print(f"{comparison_summary(sweep)}\ncomparison: {page}", flush=True)


# -- running them ----------------------------------------------------------------------------------------------------------


@dataclass
class Reporter:
    """Prints faults, each in one line on standard error, and remembers their exit codes."""

    translate: Callable[[Exception], ElongateError | None]
    shows_traceback: bool
    codes: list[int] = field(default_factory=list)

    def report(self, fault: Exception) -> int:
        """Prints the fault and returns its exit code. Raises the fault again if it has no message for the user."""
        error = self.translate(fault)
        if error is None:
            raise fault
        if self.shows_traceback:
            traceback.print_exception(fault)
        print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)
        self.codes.append(error.exit_code)
        return error.exit_code


def _run_hydra(config_name: str, task: Task) -> None:
    """Runs the task under Hydra; HYDRA_FULL_ERROR=1 shows the traceback of a fault."""
    from elongate.hydra_errors import Translator

    shows_traceback = _wants_traceback()
    # With this variable Hydra passes exceptions on; without it, it prints several lines and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Hydra copies its store of structured configs for every group that --help lists, half of the time that help takes.
    ConfigStore.__deepcopy__ = lambda store, _memo: store
    register_resolvers()
    prepare_process()
    reporter = Reporter(Translator(config_name, Choices((conf_directory(),))).translate, shows_traceback)

    def run() -> None:
        sys.argv[1:] = rerun_arguments(name_plan(remove_dashes(sys.argv[1:])))
        choices = Choices(config_directories(sys.argv[1:], conf_directory()))
        reporter.translate = Translator(config_name, choices).translate
        check_arguments(sys.argv[1:], choices)
        guarded = _guarded(task, reporter)
        hydra.main(config_path=str(conf_directory()), config_name=config_name, version_base="1.3")(guarded)()

    _exit_with_code(run, reporter)
    if reporter.codes:
        sys.exit(reporter.codes[0])


def _run_plain(task: Callable[[list[str]], None]) -> None:
    """Runs a command that does without Hydra."""
    from elongate.hydra_errors import Translator

    prepare_process()
    reporter = Reporter(Translator("train", Choices((conf_directory(),))).translate, _wants_traceback())
    _exit_with_code(lambda: task(sys.argv[1:]), reporter)


def _exit_with_code(run: Callable[[], None], reporter: Reporter) -> None:
    """Runs it. After a fault, reports it and ends the program with its exit code."""
    try:
        run()
    except KeyboardInterrupt as interrupt:
        name = interrupt.args[0] if interrupt.args else "SIGINT"
        sys.exit(reporter.report(Stopped(f"stopped by {name}; run the same command to resume")))
    except Exception as fault:  # noqa: BLE001  # the outermost frame: a fault without a message for the user is raised again
        sys.exit(reporter.report(fault))


def _guarded(task: Task, reporter: Reporter) -> Task:
    """The task of one job. Its faults are reported, and in a sweep the next job follows."""

    def guarded(config: DictConfig) -> float | None:
        folder = HydraConfig.get().runtime.output_dir
        try:
            require(HydraConfig.get().run.dir != "", "hydra.run.dir", "", "is empty", "leave {key} out, or give it a folder")
            return task(config)
        except (ElongateError, OSError, OmegaConfBaseException) as fault:
            code = reporter.report(fault)
            # A failed job does not end a sweep. A signal does, and so does a wrong setting in a search, which would repeat it.
            ends = code == Stopped.exit_code or (_searches() and code == ConfigError.exit_code)
            if HydraConfig.get().mode is not RunMode.MULTIRUN or ends:
                sys.exit(code)
            return None
        finally:
            _remove_empty(Path(folder))

    return guarded


def _searches() -> bool:
    """Whether the sweeper needs a figure of each run."""
    return bool(HydraConfig.get().sweeper["_target_"] != _GRID)


def _wants_traceback() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def _remove_empty(folder: Path) -> None:
    """Removes the directory that Hydra made for a job that wrote nothing, and its empty parents up to the current directory."""
    for path in (folder, *(parent for parent in folder.parents if Path.cwd() in parent.parents)):
        if path != Path.cwd():
            with suppress(OSError):  # not empty, or not ours to change
                path.rmdir()


def _command_line() -> str:
    """The command that repeats this run alone, also for a run of a sweep."""
    hydra_config = HydraConfig.get()
    own = [source.path for source in hydra_config.runtime.config_sources if source.provider == "command-line"]
    options = [word for folder in own for word in ("--config-dir", folder)]
    settings = [text for text in hydra_config.overrides.hydra if not text.startswith("hydra.mode=")]
    if (name := hydra_config.job.config_name) != "train":
        # What `rerun_arguments` has added is added again. The command repeats one run, never a sweep.
        options += ["--config-name", name]
        settings = [text for text in settings if text not in rerun_arguments(options) and not text.startswith("hydra.sweep.")]
    return shlex.join([*_program("train").split(), *options, *settings, *hydra_config.overrides.task])


def _require_one_process() -> None:
    """Raise `ConfigError` where torchrun, srun or submitit started several tasks: each would train the same run."""
    for variable in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SUBMITIT_LOCAL_NTASKS"):
        tasks = os.environ.get(variable, "1")
        require(tasks == "1", variable, tasks, "this version trains in one process", "start it as one task, without torchrun")


# -- resolvers of the YAML files -------------------------------------------------------------------------------------------


def register_resolvers() -> None:
    """Registers the resolvers that the YAML files use."""
    OmegaConf.register_new_resolver("slug", _slug, replace=True)
    OmegaConf.register_new_resolver("program", _program, replace=True)
    OmegaConf.register_new_resolver("fourfold", lambda length: 4 * length, replace=True)


def _program(name: str) -> str:
    """The command as the user typed it: `python train.py` or `elongate-train`."""
    typed = Path(sys.argv[0]).name
    return typed if typed == f"elongate-{name}" else f"python {name}.py"


def _slug(value: Any) -> str:
    """The value as a directory name: no `=`, `,` or `/`, which break overrides and paths, and at most 100 characters."""
    text = str(value)  # a number, for a folder that is called 2026
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.+")
    return plain if len(plain) <= 100 else f"{plain[:91]}-{sha256(text.encode()).hexdigest()[:8]}"
