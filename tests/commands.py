"""Runs the command line inside the test's process, which saves the seconds that an interpreter and its imports take."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from elongate import cli

PROGRAMS = {"train": cli.train, "evaluate": cli.evaluate}


def run_here(program: str, *arguments: str, cwd: Path, patched: pytest.MonkeyPatch, torch: bool = True) -> int:
    """The exit code of `python <program>.py <arguments>`, run in `cwd`. Without `torch`, importing it fails."""
    handler = signal.getsignal(signal.SIGTERM)
    with patched.context() as inner:
        inner.chdir(cwd)
        inner.setattr(sys, "argv", [f"{program}.py", *arguments])
        # The program sets this variable for Hydra; the next command must find it unset.
        inner.setenv("HYDRA_FULL_ERROR", "0")
        if not torch:
            inner.setitem(sys.modules, "torch", None)
        GlobalHydra.instance().clear()
        try:
            PROGRAMS[program]()
        except SystemExit as ended:
            return int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return 0
