"""The command line: `train` and `evaluate`. Does not import torch, so help, completion and errors take a second."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.arguments import check_arguments, without_dashes
from elongate.errors import ConfigError, ElongateError, RunError, Stopped, require

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from elongate.evaluation.evaluation import Evaluation

Task = Callable[["DictConfig"], None]


def train() -> None:
    """The console command `elongate-train`, and `python train.py`."""
    _main("train", _train)


def evaluate() -> None:
    """The console command `elongate-evaluate`, and `python evaluate.py`."""
    _main("evaluate", _evaluate)


def conf_directory() -> Path:
    """The directory of YAML files: next to the modules in an installed package, at the top of a clone."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


def _train(config: DictConfig) -> None:
    from elongate.build import build_job
    from elongate.console import say
    from elongate.report.table import terminal_table
    from elongate.training.plan import plan
    from elongate.training.run import run
    from elongate.training.run_directory import RunDirectory

    directory = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    job = build_job(config, HydraConfig.get().runtime.choices)
    _one_process()
    if job.plan:
        say(plan(job))
        return
    with directory.locked():
        try:
            results = run(job, directory)
        finally:
            # While holding the lock: the directory looks unused while another process trains its base.
            directory.remove_if_unused()
    say(terminal_table(results, job.evaluations))
    say(f"report: {directory.path / 'report.html'}    model: {directory.model}")
    _check_failures(results, job.evaluations)


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


class SweepComparison(Callback):
    """Writes the page that compares all runs of a sweep. Hydra calls it after a multirun."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from elongate.report.comparison import comparison_summary, write_comparison

        sweep = Path(config.hydra.sweep.dir)
        if (page := write_comparison(sweep)) is not None:
            print(f"{comparison_summary(sweep)}\ncomparison: {page}", flush=True)


def _main(config_name: str, task: Task) -> None:
    """Runs the task under Hydra. Every fault becomes one line on standard error and an exit code.

    HYDRA_FULL_ERROR=1 shows the traceback too.
    """
    show = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    # With this variable Hydra passes exceptions on; without it, it prints several lines and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    codes: list[int] = []

    def guarded(config: DictConfig) -> None:
        folder = HydraConfig.get().runtime.output_dir
        try:
            require(HydraConfig.get().run.dir != "", "hydra.run.dir", "", "is empty", "leave {key} out, or give it a folder")
            task(config)
        except (ElongateError, OSError, OmegaConfBaseException) as fault:
            codes.append(_report(fault, config_name, show))
            # A failed job does not end a sweep, a signal does.
            if HydraConfig.get().mode is not RunMode.MULTIRUN or codes[-1] == 3:
                sys.exit(codes[-1])
        finally:
            _remove_empty(Path(folder))

    # Hydra copies its store of structured configs for every group that --help lists, half of the time that help takes.
    ConfigStore.__deepcopy__ = lambda store, _memo: store
    register_resolvers()
    prepare_process()
    try:
        sys.argv[1:] = without_dashes(sys.argv[1:])
        check_arguments(sys.argv[1:], conf_directory())
        hydra.main(config_path=str(conf_directory()), config_name=config_name, version_base="1.3")(guarded)()
    except KeyboardInterrupt:
        sys.exit(_report(Stopped("stopped by a signal; run the same command to resume"), config_name, show))
    except Exception as fault:  # noqa: BLE001  # the outermost frame: a fault without a user-facing message is raised again
        sys.exit(_report(fault, config_name, show))
    if codes:
        sys.exit(codes[0])


def prepare_process() -> None:
    """Settings of the process that must be made before torch is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle OpenMP threads spin by default, and two runs on one machine then slow each other down more than ten times.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack the arrows and signs of the tables
    if "HOME" not in os.environ:
        # matplotlib warns at length when it has no place for its cache.
        os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "elongate-matplotlib"))
    # Until training installs its own handlers, both signals end the program in the same way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _report(fault: Exception, config_name: str, show: bool) -> int:
    """Prints the fault in one line and returns the exit code. Raises the fault again if it has no user-facing message."""
    from elongate.hydra_errors import to_elongate_error

    error = fault if isinstance(fault, ElongateError) else to_elongate_error(fault, config_name, conf_directory())
    if error is None:
        raise fault
    if show:
        traceback.print_exception(fault)
    print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)
    return error.exit_code


def _remove_empty(folder: Path) -> None:
    """Removes the directory that Hydra made for a job that wrote nothing, and its empty parents up to the current directory."""
    for path in (folder, *(parent for parent in folder.parents if Path.cwd() in parent.parents)):
        if path != Path.cwd():
            with suppress(OSError):  # not empty, or not ours to change
                path.rmdir()


def _one_process() -> None:
    if (world := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError("WORLD_SIZE", world, "this version trains in one process", "start it without torchrun")


def register_resolvers() -> None:
    """Registers the resolvers that the YAML files use."""
    OmegaConf.register_new_resolver("slug", _slug, replace=True)
    OmegaConf.register_new_resolver("program", _program, replace=True)
    OmegaConf.register_new_resolver("fourfold", lambda length: 4 * length, replace=True)


def _program(name: str) -> str:
    """The command as the user typed it: `python train.py` or `elongate-train`."""
    typed = Path(sys.argv[0]).name
    return typed if typed == f"elongate-{name}" else f"python {name}.py"


def _slug(text: str) -> str:
    """The text as a directory name: no `=`, `,` or `/`, which break overrides and paths, and at most 100 characters."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.+")
    return plain if len(plain) <= 100 else f"{plain[:91]}-{sha256(text.encode()).hexdigest()[:8]}"
