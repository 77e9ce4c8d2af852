"""Applies each planted fault of mutants.json to a copy of the repository and runs the tests that should fail.

    python -m tests.mutants               # all of them, two at a time
    python -m tests.mutants 07 "31 gate"  # those whose name starts like this

A fault has a name, a file, edits (old text, new text) and the test files that should notice it. A fault survives when those
tests still pass. Exits with 1 when a fault survives or its old text is no longer in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 600  # a fault that makes a test hang is caught too


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str  # relative to the repository
    edits: list[tuple[str, str]]  # old text, which must occur exactly once, and new text
    tests: list[str]  # arguments of pytest

    def apply(self, copy: Path) -> None:
        """Edits the file in the copy. Raises `ValueError` where the old text is missing or ambiguous."""
        path = copy / self.file
        text = path.read_text()
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.file}: {text.count(old)} occurrences of {old!r}, expected 1")
            text = text.replace(old, new)
        path.write_text(text)


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    verdict: str  # caught, SURVIVED or STALE
    detail: str
    seconds: float


def try_mutant(mutant: Mutant) -> Outcome:
    """Runs the mutant's tests on a faulty copy of the repository."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        copy_repository(copy)
        try:
            mutant.apply(copy)
        except (ValueError, OSError) as fault:
            return Outcome(mutant, "STALE", str(fault), 0.0)
        code, last_line = run_tests(copy, mutant.tests)
    # pytest exits with 1 for failed tests and 2 for errors at import; 4 and 5 mean that no test was run.
    verdict = "caught" if code in (1, 2) else "SURVIVED" if code == 0 else "STALE"
    return Outcome(mutant, verdict, last_line, time.monotonic() - began)


def copy_repository(target: Path) -> None:
    """Copies all tracked and new files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def run_tests(copy: Path, tests: list[str]) -> tuple[int, str]:
    """The exit code of pytest and the last line it printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return 1, f"no end after {TIMEOUT_SECONDS} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (failed or done.stdout.splitlines() or [""])[-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Checks that the tests catch planted faults.")
    parser.add_argument("names", nargs="*", help="only faults whose name starts with one of these")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at the same time")
    arguments = parser.parse_args()
    entries = json.loads((Path(__file__).parent / "mutants.json").read_text())
    mutants = [Mutant(**entry) for entry in entries]
    chosen = [m for m in mutants if not arguments.names or m.name.startswith(tuple(arguments.names))]
    outcomes = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for outcome in pool.map(try_mutant, chosen):
            outcomes.append(outcome)
            print(f"{outcome.verdict:<9} {outcome.seconds:4.0f} s  {outcome.mutant.name}  {outcome.detail[:160]}", flush=True)
    caught = sum(outcome.verdict == "caught" for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} planted faults caught")
    return 0 if outcomes and caught == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
