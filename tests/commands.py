"""Runs the command line inside the test's process, which saves the seconds that an interpreter and its imports take."""

from __future__ import annotations

import io
import logging.config
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from elongate import cli

PROGRAMS = {"train": cli.train, "evaluate": cli.evaluate}


@dataclass(frozen=True)
class Result:
    """The outcome of a command."""

    code: int  # the exit code
    out: str
    err: str


def run_here(program: str, *arguments: str, cwd: Path, torch: bool = True) -> Result:
    """Runs `python <program>.py <arguments>` in `cwd`. Without `torch`, importing it fails."""
    out, err = io.StringIO(), io.StringIO()
    handler, code = signal.getsignal(signal.SIGTERM), 0
    with pytest.MonkeyPatch.context() as patched:
        # Own streams: handlers of Hydra's loggers keep them, and pytest closes its own after the test.
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        # Hydra's logging set-up closes all handlers, and absl's, which other tests import, closes pytest's stream with it.
        patched.setattr(logging.config, "_clearExistingHandlers", lambda: None)
        patched.chdir(cwd)
        patched.setattr(sys, "path", list(sys.path))
        patched.setattr(sys, "argv", [f"{program}.py", *arguments])
        # The program sets this variable for Hydra; the next command must find it unset.
        patched.setenv("HYDRA_FULL_ERROR", "0")
        if not torch:
            patched.setitem(sys.modules, "torch", None)
        GlobalHydra.instance().clear()
        try:
            PROGRAMS[program]()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Result(code, out.getvalue(), err.getvalue())
