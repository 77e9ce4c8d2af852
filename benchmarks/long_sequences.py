"""Compares time and peak memory of one training step on one long sequence: Elongate, transformers, its Trainer, and TRL.

    make bench                                                     lengths 2048 and 4096, minutes
    python benchmarks/long_sequences.py --folder docs --peers trainer trl --ours stream stream,keep_attention=false checkpoint \
        --lengths 8192 16384 32768                                 the full run: hours, and 18 GiB of memory for the Trainer
    python benchmarks/long_sequences.py --folder docs --append --peers --ours stream --lengths 65536
    python benchmarks/long_sequences.py --folder docs --page       only redraws the table and the plot from the CSV

Model: Llama classes, 8 layers, d 512, 8 heads over 2 key/value heads, f 1408, vocabulary 32000, untied head. Weights and tokens come from
fixed seeds and are the same for all programs. Each measurement runs in its own process.

The programs are documented in `peers.py`. With the setting `window=512` of ours the loss changes, so its rows need a folder of their own.

A step is one forward and one backward pass of the whole sequence. A warm-up step of WARMUP tokens runs first, so one-time costs are not
counted.

Peak memory is the high-water mark of resident memory during the step, minus the resident memory just before it, which includes weights and
zeroed gradients. The kernel updates the mark (VmHWM) at every change. It is reset through /proc/self/clear_refs before the step, so earlier
peaks do not count. Memory is measured once, in a process with MALLOC_MMAP_THRESHOLD_=262144, which returns freed memory to the system.
Time is measured in separate processes without that setting, in the order A B B A, so that a drift of the machine affects all equally.

A measurement is refused if its loss or its gradient norm differs from that of the first measurement at its length.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from long_sequences_page import PEERS, Row, append_row, read_rows, refusal, write_page
from peers import OURS, Setting, Step, run
from processes import Child, Failed

if TYPE_CHECKING:
    import torch

WARMUP = 1024  # tokens, two chunks of 512


# -- one measurement, in its own process -----------------------------------------------------------------------------------------


def measurement(peer: str, length: int, precision: str, threads: int, kind: str) -> dict[str, Any]:
    """The fields of a `Row` that come from the measuring process."""
    import torch

    from elongate.peak_memory import peak_memory_bytes, reset_peak_memory

    torch.set_num_threads(threads)
    cpu, figures = torch.device("cpu"), {}

    def measure(step: Step, model: torch.nn.Module, **_: Any) -> None:
        step(min(WARMUP, length))
        for parameter in model.parameters():
            parameter.grad.zero_()
        gc.collect()
        if kind == "memory" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            # Return the heap of the warm-up to the system: reusing it would not raise resident memory.
            libc.malloc_trim(0)
        reset_peak_memory(cpu)
        before, seconds, cpu_seconds = peak_memory_bytes(cpu), time.perf_counter(), time.process_time()
        figures["loss"] = step(length)
        if kind == "memory":
            figures["peak_bytes"] = peak_memory_bytes(cpu) - before
        else:
            figures.update(seconds=time.perf_counter() - seconds, cpu_seconds=time.process_time() - cpu_seconds)
        figures["gradient_norm"] = sum(p.grad.double().square().sum().item() for p in model.parameters()) ** 0.5

    run(peer, Setting("small", length, precision), measure)
    used = ("torch", "transformers", *(("trl",) if peer == "trl" else ()))
    return figures | {"versions": ", ".join(f"{package} {version(package)}" for package in used)}


def environment(kind: str, threads: int) -> dict[str, str]:
    """The environment of a measuring process. Only memory is measured with the fixed threshold, because it slows down allocations."""
    inherited = {key: value for key, value in os.environ.items() if key != "MALLOC_MMAP_THRESHOLD_"}
    ours = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    return inherited | ours | ({"MALLOC_MMAP_THRESHOLD_": "262144"} if kind == "memory" else {})


def measured(peer: str, length: int, kind: str, given: argparse.Namespace) -> Row | str:
    """A row, or the reason why there is none."""
    task = {"peer": peer, "length": length, "precision": given.precision, "threads": given.threads, "kind": kind}
    try:
        figures = Child(__file__, task, environment(kind, given.threads)).result(given.timeout)
    except Failed as reason:
        return str(reason)
    return Row(run=given.run, command=given.command, **task, **figures)


# -- all measurements -------------------------------------------------------------------------------------------------------------


def tasks(given: argparse.Namespace) -> Iterator[tuple[str, int, str]]:
    """(peer, length, kind) in the order of measurement: memory once per peer, then time in alternating order."""
    everyone = [*given.peers, *(f"{OURS}{plan}" for plan in given.ours)]
    for length in given.lengths:
        if "memory" in given.kinds:
            yield from ((peer, length, "memory") for peer in everyone)
        if "time" in given.kinds:
            for i in range(given.repeats):
                yield from ((peer, length, "time") for peer in (everyone if i % 2 == 0 else reversed(everyone)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["trainer", "trl"])
    parser.add_argument("--ours", nargs="*", default=["stream", "stream,keep_attention=false"], help="memory plans with their settings")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--kinds", nargs="+", choices=("memory", "time"), default=["memory", "time"])
    parser.add_argument(
        "--repeats", type=int, default=2, help="time measurements per peer; with an even number a drift of the machine affects all equally"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=float, help="seconds after which a measurement is stopped")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where long_sequences.csv, .md and .png are written")
    parser.add_argument("--append", action="store_true", help="keep the existing rows")
    parser.add_argument("--page", action="store_true", help="only redraw the table and the plot from the existing CSV")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measurement(**given.measure)))
        return
    given.run = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    given.command = f"python benchmarks/long_sequences.py {shlex.join(sys.argv[1:])}"
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "long_sequences.csv"
    if not (given.append or given.page):
        file.unlink(missing_ok=True)
    faults = 0
    for peer, length, kind in () if given.page else tasks(given):
        row = measured(peer, length, kind, given)
        fault = row if isinstance(row, str) else refusal(row, read_rows(file))
        faults += fault is not None
        if fault is None:
            append_row(file, row)
        print(f"{length:6}  {row if fault is None else f'{peer}, {kind}: {fault}'}", flush=True)
    if file.exists():
        write_page(read_rows(file), given.folder)
        print(file.with_suffix(".md"))
    sys.exit(int(faults > 0))


if __name__ == "__main__":
    main()
