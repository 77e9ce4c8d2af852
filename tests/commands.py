"""The command line under test: in this process, which saves seconds, or as a process of its own."""

from __future__ import annotations

import hashlib
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
PROGRAMS = {"train": cli.train, "evaluate": cli.evaluate, "check": cli.check, "env": cli.env}


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    lines: list[str]  # on standard error
    seconds: float  # CPU time, which another program on the machine changes little

    def reported(self, code: int) -> str:
        """The one line on standard error, without `error: `."""
        assert self.code == code, self
        assert len(self.lines) == 1, self.lines
        assert self.lines[0].startswith("error: ")
        return self.lines[0].removeprefix("error: ")


Command = Callable[..., Ended]


def run_here(program: str, *arguments: str, cwd: Path, patched: pytest.MonkeyPatch, torch: bool = True, **environment: str) -> int:
    """The exit code of `python <program>.py <arguments>`, run in `cwd`. Without `torch`, importing it fails."""
    handler = signal.getsignal(signal.SIGTERM)
    with patched.context() as inner:
        inner.chdir(cwd)
        inner.setattr(sys, "argv", [f"{program}.py", *arguments])
        inner.setattr(sys, "path", [*sys.path])
        # The program sets this variable for Hydra; the next command must find it unset.
        for name, value in {"HYDRA_FULL_ERROR": "0", **environment}.items():
            inner.setenv(name, value)
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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process and in the test's folder."""

    def here(program: str, *words: str, torch: bool = False, **environment: str) -> Ended:
        capfd.readouterr()
        code = run_here(program, *words, cwd=tmp_path, patched=monkeypatch, torch=torch, **environment)
        printed = capfd.readouterr()
        return Ended(code, printed.out, printed.err.splitlines(), 0.0)

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


def command(program: str, *words: str, cwd: Path, torch: bool = False, **extra: str) -> Ended:
    """Runs `python <program>.py <words>` as a process."""
    before = processor_seconds()
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{program}.py"), *words],
        cwd=cwd,
        env=environment(cwd, torch, **extra),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    return Ended(done.returncode, done.stdout, done.stderr.splitlines(), processor_seconds() - before)


def processor_seconds() -> float:
    """CPU time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below the folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
