"""The rows of `gpu.py`, and the page made from them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pages
from pages import in_order, markdown, name

REFERENCE = "liger"
LOSS_TOLERANCE = 2e-3  # nats; in bf16, programs round weights and states at different places
NORM_TOLERANCE = 2e-2  # relative
GIB = 2**30
CAPACITY_NAMES = {"adamw": "AdamW, all weights", "lora": "LoRA of rank 8, frozen weights in bf16"}
TITLE = """# On a GPU

One training step on one sequence. How it is measured is documented in `benchmarks/gpu.py`. Memory is the peak beyond weights and gradients.
Ratios compare with the row Trainer + checkpointing + Liger of the same run: of speed, more is faster; of memory, less is
smaller.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement."""

    run: str  # start of the command; rows are compared only within a run
    peer: str
    kind: str  # step, adamw or lora
    shape: str
    length: int
    seconds: float
    peak_bytes: int  # beyond weights and gradients; of adamw and lora, everything
    loss: float
    gradient_norm: float | None = None
    plan: str | None = None  # that a memory setting of ours chose
    plan_seconds: float | None = None
    operators: Sequence[str] = ()  # of attention
    kernels: Sequence[tuple[str, int, float]] = ()  # name, calls and seconds of those that take the most time
    kernel_seconds: float | None = None  # of all kernels
    card: str
    versions: str
    command: str

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.length / self.seconds

    def __str__(self) -> str:
        plan = f"  plan {self.plan} after {self.plan_seconds:.1f} s" if self.plan else ""
        norm = f"  gradient norm {self.gradient_norm:.5f}" if self.gradient_norm is not None else ""
        return f"{self.speed:9,.0f} tokens/s  {self.seconds:8.3f} s  {self.peak_bytes / GIB:7.3f} GiB  loss {self.loss:.5f}{norm}{plan}"


def read_rows(file: Path) -> list[Row]:
    """The rows of the file, one JSON object a line; empty without a file."""
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def append_row(file: Path, row: Row) -> None:
    """Appends a row to the file."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(row)) + "\n")


def refusal(row: Row, rows: Sequence[Row]) -> str | None:
    """Why the row is not the same computation as the first of its length; None if it is."""
    if row.kind != "step":
        return None if math.isfinite(row.loss) else f"refused: its loss is {row.loss}"
    first = next((other for other in rows if (other.kind, other.shape, other.length) == ("step", row.shape, row.length)), row)
    return pages.difference(row, first, LOSS_TOLERANCE, NORM_TOLERANCE)


def table(rows: Sequence[Row]) -> str:
    """The page in Markdown."""
    versions = dict.fromkeys(package for row in rows for package in row.versions.split(", "))
    commands = dict.fromkeys(row.command for row in rows)
    cards = dict.fromkeys(row.card for row in rows)
    text = [TITLE, "```", *commands, "```", "", f"{', '.join(cards)}; bf16; {', '.join(versions)}.", ""]
    steps = [row for row in rows if row.kind == "step"]
    if steps:
        text += ["![Speed and memory over length](gpu.png)", ""]
    for length in sorted({row.length for row in steps}):
        text += [f"## {length:,} tokens", "", *_length_table([row for row in steps if row.length == length]), ""]
    if capacity := [row for row in rows if row.kind != "step"]:
        text += ["## Whole steps on one card", "", *_capacity_table(capacity), ""]
    if profiles := [row for row in steps if row.kernel_seconds]:
        text += _profile_section(profiles)
    return "\n".join(text)


def _length_table(rows: Sequence[Row]) -> list[str]:
    head = ["tokens/s", "ratio", "GiB", "ratio", "loss", "seconds of the planner"]
    lines = []
    for peer in in_order(rows):
        own = [row for row in rows if row.peer == peer]
        speeds, peaks = (_ratio(own, rows, figure) for figure in ("speed", "peak_bytes"))
        best = max(own, key=lambda row: row.speed)
        took = f"{best.plan_seconds:.1f}" if best.plan_seconds is not None else ""
        memory = f"{best.peak_bytes / GIB:.2f}"
        lines.append([_described(best), f"{best.speed:,.0f}", speeds, memory, peaks, f"{best.loss:.4f}", took])
    return markdown(head, lines)


def _ratio(own: Sequence[Row], rows: Sequence[Row], figure: str) -> str:
    """The median over runs of the figure divided by that of the reference in the same run."""
    references = {row.run: getattr(row, figure) for row in rows if row.peer == REFERENCE}
    ratios = [getattr(row, figure) / references[row.run] for row in own if row.run in references]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def _described(row: Row) -> str:
    """The name of the program, with the plan that `auto` chose."""
    return f"{name(row.peer)}: `{row.plan}`" if row.peer.endswith(" auto") else name(row.peer)


def _capacity_table(rows: Sequence[Row]) -> list[str]:
    head = ["tokens", "seconds", "tokens/s", "GiB in all", "loss"]
    lines = [
        [
            f"{CAPACITY_NAMES[row.kind]}, {row.shape} shape: `{row.plan}`",
            f"{row.length:,}",
            f"{row.seconds:,.1f}",
            f"{row.speed:,.0f}",
            f"{row.peak_bytes / GIB:.1f}",
            f"{row.loss:.4f}",
        ]
        for row in rows
    ]
    return markdown(head, lines)


def _profile_section(rows: Sequence[Row]) -> list[str]:
    """The attention operators of each program, and the largest kernels of the reference and of `auto`."""
    text = [f"## Operators and kernels at {rows[0].length:,} tokens", ""]
    latest = {row.peer: row for row in rows}
    for row in latest.values():
        text.append(f"- {_described(row)}: {', '.join(f'`{operator}`' for operator in row.operators) or 'none of torch'}")
    for peer in (REFERENCE, "elongate auto"):
        if peer in latest:
            row = latest[peer]
            text += ["", f"{_described(row)}, {row.kernel_seconds:.3f} s of kernels:", ""]
            lines = [[f"`{kernel[:90]}`", str(calls), f"{seconds:.3f}"] for kernel, calls, seconds in row.kernels]
            text += markdown(["calls", "seconds"], lines)
    return [*text, ""]


def write_page(rows: Sequence[Row], folder: Path) -> None:
    """Writes the tables and the plot."""
    (folder / "gpu.md").write_text(table(rows))
    steps = [row for row in rows if row.kind == "step"]
    if steps:
        speed, memory = {}, {}
        for peer in in_order(steps):
            own = sorted((row for row in steps if row.peer == peer), key=lambda row: (row.length, row.speed))
            speed[peer] = {row.length: row.speed for row in own}
            memory[peer] = {row.length: row.peak_bytes / GIB for row in own if row.peak_bytes > 0}
        pages.plot({"Tokens per second": speed, "Peak beyond weights and gradients, GiB": memory}, folder / "gpu.png")
