"""Compares one training step on one long sequence on a GPU: Elongate, transformers' Trainer with and without Liger kernels, and TRL.

    make bench-gpu                                              at most 8 minutes on one 80 GB card
    python benchmarks/gpu.py --only 'liger|auto' --lengths 8192 32768
    python benchmarks/gpu.py --capacity --append                the capacity rows, added to those that exist
    python benchmarks/gpu.py --page                             only redraws the page from the rows
    python benchmarks/gpu.py --dry-run                          every part at tiny size on the CPU

Model: the shape of Llama 3.2 1B (1.24 billion parameters), bf16, in the programs of `peers.py`. Weights are drawn on the device from a
fixed seed. A step is one forward and one backward pass of the whole sequence into existing gradients. After a warm-up step of at most
WARMUP tokens, REPEATS steps are timed, and the fastest one counts. Memory is the peak of allocated tensors during the first of them, minus
weights and gradients. The seconds in which `auto` chooses a plan are listed apart.

Each measurement runs in its own process, one after the other. The next process imports its packages while the current one measures. A
measurement is refused if its loss or its gradient norm differs from that of the first one at its length. At the middle one of the lengths,
one more step is profiled: the attention operators of all programs, and the kernels that take the most time.

The capacity rows are whole steps of AdamW that have to fit the card, with `memory=auto`: all weights of the 1.24B shape at 524,288 tokens,
with weights and optimizer state in float32, and LoRA of rank 8 on the shape of Llama 3.1 8B at 262,144 tokens, whose frozen weights are
bfloat16. Each is measured once and takes minutes.

Measurements end after `--budget` seconds. The output names the rows that were not measured, and those whose packages are not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import peers
from gpu_page import Row, append_row, read_rows, refusal, write_page
from gpu_step import Task, measurement
from peers import OURS
from processes import Child, Failed

# The reference of all ratios and losses is measured first.
PROGRAMS = ("liger", "trainer", "trl")
PLANS = ("auto", "checkpoint", "checkpoint,offload=host", "checkpoint,offload=host,keep_attention=false", "stream")
LENGTHS = (8192, 32768, 131072)
CAPACITY = {"adamw": ("1b", 524_288), "lora": ("8b", 262_144)}  # shape and tokens
BUDGET = 480.0  # seconds

DRY_LENGTHS = (64, 128)
DRY_PLANS = ("auto", "checkpoint", "stream,chunk_length=40")
DRY_CAPACITY = {"adamw": ("tiny", 96), "lora": ("tiny", 96)}

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
SPENT = "not measured: the budget is spent"


def tasks(given: argparse.Namespace) -> list[Task]:
    """All measurements in their order."""
    device, shape = ("cpu", "tiny") if given.dry_run else ("cuda", "1b")
    everyone = [PROGRAMS[0], *(f"{OURS}{plan}" for plan in (DRY_PLANS if given.dry_run else PLANS)), *PROGRAMS[1:]]
    middle = given.lengths[len(given.lengths) // 2]
    steps = [Task(peer, "step", shape, length, device, length == middle) for length in given.lengths for peer in everyone]
    rows = (DRY_CAPACITY if given.dry_run else CAPACITY).items()
    capacity = [Task(f"{OURS}auto", kind, shape, length, device) for kind, (shape, length) in rows]
    found = [*steps, *capacity] if given.dry_run else capacity if given.capacity else steps
    return [task for task in found if re.search(given.only, task.title)]


def unavailable(task: Task) -> str | None:
    """Why this program cannot be measured here; None if it can."""
    for package in peers.PACKAGES.get(task.peer, ()):
        try:
            version(package)
        except PackageNotFoundError:
            return f"{package} is not installed"
    return "Liger kernels need a GPU" if task.peer == "liger" and task.device == "cpu" else None


def measured(able: Sequence[Task], deadline: float) -> Iterator[tuple[Task, dict[str, Any] | str]]:
    """Yields each task with its figures, or with the reason why it has none. Every task has its own process."""
    waiting: Child | None = None
    try:
        for task, following in zip(able, [*able[1:], None], strict=True):
            left = deadline - time.monotonic()
            if left <= 0:
                yield task, SPENT
                continue
            child = waiting or child_of(task)
            waiting = child_of(following) if following else None
            try:
                found = child.result(left)
            except Failed as reason:
                found = {"failed": str(reason)}
            yield task, found.get("failed") or found
    finally:
        if waiting is not None:
            waiting.stop()


def child_of(task: Task) -> Child:
    """The process that measures a task."""
    return Child(__file__, asdict(task), os.environ | ENVIRONMENT)


def measured_here(able: Sequence[Task], deadline: float) -> Iterator[tuple[Task, dict[str, Any] | str]]:
    """The same in this process, for the dry run: its figures mean nothing, and imports take longer than measurements."""
    for task in able:
        if time.monotonic() >= deadline:
            yield task, SPENT
            continue
        try:
            yield task, measurement(task)
        except Failed as reason:
            yield task, str(reason)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", metavar="REGEX", help="measure only rows whose name contains it, such as 'liger 8192'")
    parser.add_argument("--lengths", type=int, nargs="+", help=f"tokens of a sequence, default {' '.join(map(str, LENGTHS))}")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="for all measurements together")
    parser.add_argument("--folder", type=Path, help="where gpu.jsonl, gpu.md and gpu.png are written, default docs")
    parser.add_argument("--capacity", action="store_true", help="measure the capacity rows instead")
    parser.add_argument("--append", action="store_true", help="keep the existing rows")
    parser.add_argument("--page", action="store_true", help="only redraw the page from the existing rows")
    parser.add_argument("--dry-run", action="store_true", help="everything at tiny size on the CPU, into runs/benchmarks")
    given = parser.parse_args()
    given.lengths = given.lengths or (DRY_LENGTHS if given.dry_run else LENGTHS)
    given.folder = given.folder or Path("runs/benchmarks" if given.dry_run else "docs")
    return given


def main() -> None:
    began, given = time.monotonic(), arguments()
    if given.measure:
        task = Task(**given.measure)
        peers.load(task.peer)
        sys.stdin.readline()
        try:
            print(json.dumps(measurement(task)))
        except Failed as reason:
            print(json.dumps({"failed": str(reason)}))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "gpu.jsonl"
    if not (given.append or given.page):
        file.unlink(missing_ok=True)
    faults = 0 if given.page else measure_all(given, began + given.budget, file)
    if rows := read_rows(file):
        write_page(rows, given.folder)
        print(file.with_suffix(".md"))
    sys.exit(int(faults > 0))


def measure_all(given: argparse.Namespace, deadline: float, file: Path) -> int:
    """Measures all rows and appends them to the file. Returns how many failed or were refused."""
    run, command = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"), f"python benchmarks/gpu.py {shlex.join(sys.argv[1:])}".strip()
    chosen, faults = tasks(given), 0
    reasons = {task: unavailable(task) for task in chosen}
    for task in chosen:
        if reasons[task]:
            print(f"{task.title}: not measured: {reasons[task]}", flush=True)
    able = [task for task in chosen if not reasons[task]]
    for task, found in (measured_here if given.dry_run else measured)(able, deadline):
        if isinstance(found, str):
            faults += found.startswith("failed")
            print(f"{task.title}: {found}", flush=True)
            continue
        row = Row(run=run, command=command, peer=task.peer, kind=task.kind, shape=task.shape, length=task.length, **found)
        fault = refusal(row, read_rows(file))
        faults += fault is not None
        if fault is None:
            append_row(file, row)
        print(f"{task.title}: {fault or row}", flush=True)
    return faults


if __name__ == "__main__":
    main()
