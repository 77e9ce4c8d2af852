"""The two commands. Nothing here imports torch, so that help, completion and a refusal cost a second."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.errors import ConfigError, ElongateError, RunError, Stopped

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
    """Beside the modules in an installed package, at the top of a clone."""
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
            # Under the lock: the folder may look unused while another process trains its base.
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
    """Raise `RunError` if an evaluation has failed, such as a closed gate. Everything is written and shown before."""
    from elongate.report.verdict import failures

    for reason in failures(results, evaluations):
        raise RunError(reason)


class SweepComparison(Callback):
    """Hydra calls it after a multirun: one page that compares all runs of the sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from elongate.report.comparison import comparison_summary, write_comparison

        sweep = Path(config.hydra.sweep.dir)
        if (page := write_comparison(sweep)) is not None:
            print(f"{comparison_summary(sweep)}\ncomparison: {page}", flush=True)


def _main(config_name: str, task: Task) -> None:
    """Runs hydra so that every fault is one line on standard error with its exit code; HYDRA_FULL_ERROR=1 shows the traceback."""
    show = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    # Hydra hands faults on to its caller only under this variable; without it, it prints several lines and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    codes: list[int] = []

    def guarded(config: DictConfig) -> None:
        folder = HydraConfig.get().runtime.output_dir
        try:
            if not HydraConfig.get().run.dir:
                raise ConfigError("hydra.run.dir", "", "names no folder", "leave {key} out, or give it a folder")
            task(config)
        except (ElongateError, OSError, OmegaConfBaseException) as fault:
            codes.append(_tell(fault, config_name, show))
            # A broken job does not end a sweep, a signal does.
            if HydraConfig.get().mode is not RunMode.MULTIRUN or codes[-1] == 3:
                sys.exit(codes[-1])
        finally:
            _remove_empty(Path(folder))

    # Hydra copies its store of structured configs for every group that help lists, which is half of the time that help takes.
    ConfigStore.__deepcopy__ = lambda store, _memo: store
    register_resolvers()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Until training takes them over, both signals end the program in the same way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _check_options()
        hydra.main(config_path=str(conf_directory()), config_name=config_name, version_base="1.3")(guarded)()
    except KeyboardInterrupt:
        stopped = Stopped("stopped by a signal; what was written before is whole, and the same command goes on from it")
        sys.exit(_tell(stopped, config_name, show))
    except Exception as fault:  # noqa: BLE001  # the outermost frame: what is not ours to word is raised again
        sys.exit(_tell(fault, config_name, show))
    if codes:
        sys.exit(codes[0])


def _tell(fault: Exception, config_name: str, show: bool) -> int:
    """Prints the fault in one line and returns the exit code; raises it again where it is not ours to word."""
    from elongate.hydra_errors import worded

    told = fault if isinstance(fault, ElongateError) else worded(fault, config_name, conf_directory())
    if told is None:
        raise fault
    if show:
        traceback.print_exception(fault)
    print("error:", " ".join(str(told).split()), file=sys.stderr, flush=True)
    return told.exit_code


def _check_options() -> None:
    """Raises `ConfigError` for an option that hydra does not know; hydra itself would print its usage, ten lines of it."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(
            "command line",
            " ".join(sys.argv[1:]),
            message,
            "write key=value without dashes, and options such as -m before them; see --help",
        )

    parser.error = refuse
    parser.parse_args()


def _remove_empty(folder: Path) -> None:
    """Removes the folder that hydra made for a job which then wrote nothing, and those above it, up to the current one."""
    for path in (folder, *(parent for parent in folder.parents if Path.cwd() in parent.parents)):
        if path != Path.cwd():
            with suppress(OSError):  # what holds something, or cannot be changed, stays
                path.rmdir()


def _one_process() -> None:
    if (world := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError("WORLD_SIZE", world, "this version trains in one process", "start it without torchrun")


def register_resolvers() -> None:
    """What the YAML files use beyond omegaconf's own."""
    OmegaConf.register_new_resolver("slug", _slug, replace=True)
    OmegaConf.register_new_resolver("fourfold", lambda length: 4 * length, replace=True)


def _slug(text: str) -> str:
    """The text as a folder's name: no `=`, `,` or `/`, which break overrides and paths, and not too long for a file system."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.+")
    return plain if len(plain) <= 100 else f"{plain[:91]}-{sha256(text.encode()).hexdigest()[:8]}"
