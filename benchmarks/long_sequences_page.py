"""The rows of `long_sequences.py`, and the table and plot made from them."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pages
from pages import in_order, markdown, name
from peers import OURS

PEERS = ("plain", "trainer", "trl")
LOSS_TOLERANCE = 1e-4  # nats, also in bf16, whose rounding errors average out over thousands of tokens
NORM_TOLERANCE = 1e-3  # relative
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. A row has either memory or time, because they need different conditions."""

    run: str  # start of the command; times are comparable only within a run
    peer: str  # one of PEERS, or OURS and a memory plan
    length: int
    precision: str
    threads: int
    kind: str  # memory or time
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    loss: float
    gradient_norm: float
    versions: str
    command: str

    def __str__(self) -> str:
        figure = f"{self.peak_bytes / MIB:9.1f} MiB" if self.kind == "memory" else f"{self.seconds:7.1f} s  cpu {self.cpu_seconds:7.1f} s"
        return f"{self.peer:28}  {figure}  loss {self.loss:.6f}  gradient norm {self.gradient_norm:.6f}"


def read_rows(file: Path) -> list[Row]:
    """The rows of the CSV; empty without a file."""
    if not file.exists():
        return []
    kinds = {
        "length": int,
        "threads": int,
        "seconds": float,
        "cpu_seconds": float,
        "peak_bytes": int,
        "loss": float,
        "gradient_norm": float,
    }
    with file.open(newline="") as lines:
        return [
            Row(**{key: kinds.get(key, str)(value) if value else None for key, value in line.items()}) for line in csv.DictReader(lines)
        ]


def append_row(file: Path, row: Row) -> None:
    """Appends a row to the CSV, with a header if it is the first one."""
    new = not file.exists()
    with file.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


def refusal(row: Row, rows: Sequence[Row]) -> str | None:
    """Why the row is not the same computation as the first one of its length and precision; None if it is."""
    first = next((other for other in rows if (other.length, other.precision) == (row.length, row.precision)), row)
    return pages.difference(row, first, LOSS_TOLERANCE, NORM_TOLERANCE)


# -- figures -----------------------------------------------------------------------------------------------------------------------


def peaks(rows: Iterable[Row], peer: str) -> dict[int, float]:
    """Peak bytes by length, the median of several measurements."""
    return _medians((row.length, row.peak_bytes) for row in rows if row.peer == peer and row.kind == "memory")


def seconds(rows: Iterable[Row], peer: str) -> dict[int, float]:
    """Seconds by length, the median of several measurements."""
    return _medians((row.length, row.seconds) for row in rows if row.peer == peer and row.kind == "time")


def time_ratios(rows: Sequence[Row], ours: str, peer: str) -> dict[int, float]:
    """Our seconds divided by theirs, by length. Ratios are taken within a run, because the speed of the machine changes between runs."""
    found = []
    for run in {row.run for row in rows}:
        same = [row for row in rows if row.run == run]
        mine, theirs = seconds(same, ours), seconds(same, peer)
        found += [(length, mine[length] / theirs[length]) for length in mine.keys() & theirs.keys()]
    return _medians(found)


def slope_range(rows: Iterable[Row]) -> tuple[int, int]:
    """The two lengths that define memory per further token: 8k and 32k if one peer has both, else the shortest and the longest."""
    by_peer: dict[str, set[int]] = {}
    for row in rows:
        if row.kind == "memory":
            by_peer.setdefault(row.peer, set()).add(row.length)
    if any({8192, 32768} <= lengths for lengths in by_peer.values()):
        return 8192, 32768
    every = set().union(*by_peer.values())
    return min(every), max(every)


def slope(peak: dict[int, float], ends: tuple[int, int]) -> float | None:
    """Bytes per further token; None if one of the two lengths is missing."""
    short, long = ends
    return (peak[long] - peak[short]) / (long - short) if short < long and {short, long} <= peak.keys() else None


def _medians(pairs: Iterable[tuple[int, float]]) -> dict[int, float]:
    groups: dict[int, list[float]] = {}
    for length, value in pairs:
        groups.setdefault(length, []).append(value)
    return {length: statistics.median(values) for length, values in sorted(groups.items())}


# -- the page ----------------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The page in Markdown: the commands, then memory and time for each measured precision and number of threads."""
    versions = dict.fromkeys(package for row in rows for package in row.versions.split(", "))
    text = [
        "# Long sequences",
        "",
        "One training step on one sequence. How it is measured is documented in `benchmarks/long_sequences.py`.",
        "",
    ]
    text += ["```", *dict.fromkeys(row.command for row in rows), "```", "", f"{', '.join(versions)}.", ""]
    for precision, threads in dict.fromkeys((row.precision, row.threads) for row in rows):
        some = [row for row in rows if (row.precision, row.threads) == (precision, threads)]
        setting = f"{precision}, {threads} thread{'s' * (threads > 1)}"
        memory, times = [row for row in some if row.kind == "memory"], [row for row in some if row.kind == "time"]
        if memory:
            text += [f"## Peak memory over weights and gradients, MiB ({setting})", "", *_memory_tables(memory)]
        if times:
            text += [f"## Step time, seconds ({setting})", "", *_time_tables(times)]
    return "\n".join(text)


def _memory_tables(rows: Sequence[Row]) -> list[str]:
    everyone, peak = in_order(rows), {peer: peaks(rows, peer) for peer in in_order(rows)}
    lengths, ends = sorted({row.length for row in rows}), slope_range(rows)
    slopes = {peer: slope(peak[peer], ends) for peer in everyone}
    head = [*map(str, lengths), f"KiB per further token, {ends[0]} to {ends[1]}"]
    lines = [
        [
            name(peer),
            *_cells(peak[peer], lengths, lambda bytes_: f"{bytes_ / MIB:,.0f}"),
            "" if slopes[peer] is None else _short(slopes[peer] / 1024),
        ]
        for peer in everyone
    ]
    compared = []
    for ours, peer in _pairs(everyone):
        ratios = {length: peak[peer][length] / peak[ours][length] for length in peak[peer].keys() & peak[ours].keys()}
        per_token = f"{_short(slopes[peer] / slopes[ours])}×" if slopes[peer] and slopes[ours] else ""
        compared.append([f"{name(peer)} ÷ {name(ours)}", *_cells(ratios, lengths, lambda ratio: f"{ratio:.1f}×"), per_token])
    return [*markdown(head, lines), "", *([*markdown(head, compared), ""] if compared else [])]


def _short(value: float) -> str:
    """The value with two or three significant digits, or as an integer from 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _time_tables(rows: Sequence[Row]) -> list[str]:
    lengths = sorted({row.length for row in rows})
    lines = [[name(peer), *_cells(seconds(rows, peer), lengths, lambda value: f"{value:,.1f}")] for peer in in_order(rows)]
    compared = [
        [f"{name(ours)} ÷ {name(peer)}", *_cells(time_ratios(rows, ours, peer), lengths, lambda ratio: f"{ratio:.2f}")]
        for ours, peer in _pairs(in_order(rows))
    ]
    lengths = [str(length) for length in lengths]
    return [*markdown(lengths, lines), "", *([*markdown(lengths, compared), ""] if compared else [])]


def _pairs(everyone: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of each of our plans with each peer."""
    return [(ours, peer) for ours in everyone if ours.startswith(OURS) for peer in everyone if peer in PEERS]


def _cells(values: dict[int, float], lengths: Sequence[int], shown: Callable[[float], str]) -> list[str]:
    return [shown(values[length]) if length in values else "" for length in lengths]


def plot(rows: Sequence[Row], file: Path) -> None:
    """Plots memory and time over length, for the precision and threads of the first row."""
    rows = [row for row in rows if (row.precision, row.threads) == (rows[0].precision, rows[0].threads)]
    panels = {}
    for kind, title, figure, scale in (
        ("memory", "Peak over weights and gradients, GiB", peaks, 2**30),
        ("time", "Step time, seconds", seconds, 1),
    ):
        if any(row.kind == kind for row in rows):
            panels[title] = {peer: {length: y / scale for length, y in figure(rows, peer).items()} for peer in in_order(rows)}
    pages.plot(panels, file)


def write_page(rows: Sequence[Row], folder: Path) -> None:
    """Writes the table and the plot."""
    (folder / "long_sequences.md").write_text(table(rows))
    plot(rows, folder / "long_sequences.png")
