"""The command line under test: in this process, which saves seconds, or as a process of its own."""

from __future__ import annotations

import hashlib
import io
import logging.config
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from elongate import cli

ROOT = Path(__file__).parents[1]
PROGRAMS = {"train": cli.train, "evaluate": cli.evaluate, "generate": cli.generate, "check": cli.check, "env": cli.env}


@dataclass(frozen=True)
class Result:
    """The outcome of a command."""

    code: int  # the exit code
    out: str
    err: str
    seconds: float = 0.0  # CPU time of a process, which other programs on the machine change little

    @property
    def lines(self) -> list[str]:
        """The lines on standard error."""
        return self.err.splitlines()

    def reported(self, code: int) -> str:
        """The one line on standard error, without `error: `."""
        assert self.code == code, self
        assert len(self.lines) == 1, self.lines
        assert self.lines[0].startswith("error: ")
        return self.lines[0].removeprefix("error: ")


Command = Callable[..., Result]


def run_here(program: str, *arguments: str, cwd: Path, torch: bool = True, **environment: str) -> Result:
    """Runs `python <program>.py <arguments>` in `cwd`, or an installed command if `program` is its path.

    Without `torch`, importing it fails.
    """
    word = program.rpartition("elongate-")[2]
    out, err = io.StringIO(), io.StringIO()
    handlers, code = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}, 0
    with pytest.MonkeyPatch.context() as patched:
        # Own streams: handlers of Hydra's loggers keep them, and pytest closes its own after the test.
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        # Hydra's logging set-up closes all handlers, and absl's, which other tests import, closes pytest's stream with it.
        patched.setattr(logging.config, "_clearExistingHandlers", lambda: None)
        patched.chdir(cwd)
        patched.setattr(sys, "path", list(sys.path))
        patched.setattr(sys, "argv", [program if word != program else f"{program}.py", *arguments])
        # The program sets the first variable for Hydra; the next command must find it unset.
        for name, value in {"HYDRA_FULL_ERROR": "0", **environment}.items():
            patched.setenv(name, value)
        if not torch:
            patched.setitem(sys.modules, "torch", None)
        GlobalHydra.instance().clear()
        try:
            PROGRAMS[word]()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture
def here(tmp_path: Path) -> Command:
    """Runs a command in this process and in the test's folder, without torch unless it is asked for."""

    def here(program: str, *words: str, torch: bool = False, **environment: str) -> Result:
        return run_here(program, *words, cwd=tmp_path, torch=torch, **environment)

    return here


def environment(cwd: Path, torch: bool, **extra: str) -> dict[str, str]:
    """The environment of a process. Without `torch`, importing it fails."""
    folders = [str(ROOT / "src")]
    if not torch:
        fake = cwd / "without" / "torch"
        fake.mkdir(parents=True, exist_ok=True)
        (fake / "__init__.py").write_text('raise ImportError("torch was imported")')
        folders.insert(0, str(fake.parent))
    kept = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    return kept | {"PYTHONPATH": os.pathsep.join(folders), "HF_HOME": str(cwd / "hub")} | extra


def command(program: str, *words: str, cwd: Path, torch: bool = False, **extra: str) -> Result:
    """Runs `python <program>.py <words>` as a process."""
    before = processor_seconds()
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{program}.py"), *words],
        cwd=cwd,
        env=environment(cwd, torch, **extra),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr, processor_seconds() - before)


def processor_seconds() -> float:
    """CPU time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below the folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
