"""Compares time and peak memory of one training step on one long sequence: Elongate, transformers, its Trainer, and TRL.

    make bench                                                     lengths 2048 and 4096, minutes
    python benchmarks/long_sequences.py --folder docs --peers trainer trl --ours stream stream,keep_attention=false checkpoint \
        --lengths 8192 16384 32768                                 the full run: hours, and 18 GiB of memory for the Trainer
    python benchmarks/long_sequences.py --folder docs --append --peers --ours stream --lengths 65536
    python benchmarks/long_sequences.py --folder docs --page       only redraws the table and the plot from the CSV

Model: Llama classes, 8 layers, d 512, 8 heads over 2 key/value heads, f 1408, vocabulary 32000, untied head. Weights and tokens come from
fixed seeds and are the same for all programs. Each measurement runs in its own process.

- `plain`: `model(input_ids, labels=…).loss.backward()`.
- `trainer`: `transformers.Trainer` with `gradient_checkpointing=True` and defaults for everything else.
- `trl`: TRL's `SFTTrainer`, which also uses gradient checkpointing, with its own collator. Its default loss is the chunked one: called
  "nll" in 1.16, with at most 4096 × 32768 logits at a time, and "chunked_nll" before. It includes the entropy and accuracy that TRL logs.
- ours: a memory plan and its settings, `stream` or `stream,keep_attention=false,chunk_length=256`. The setting `window=512` selects the
  attention. It changes the loss, so its rows need a folder of their own.

A step is one forward and one backward pass of the whole sequence into existing gradients. For both trainers it is their `training_step`,
called by their own loop. Data loading, clipping and the optimizer are not included for any program. A warm-up step of WARMUP tokens runs
first, so one-time costs are not counted.

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from long_sequences_page import OURS, PEERS, Row, append_row, read_rows, refusal, write_page

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import Trainer

WARMUP = 1024  # tokens, two chunks of 512
VOCABULARY = 32_000
SEED = 0

Step = Callable[[int], float]  # forward and backward pass of that many first tokens; returns the loss


# -- the programs --------------------------------------------------------------------------------------------------------------


def network(length: int, attention: str) -> torch.nn.Module:
    """The model with fresh weights and the named attention implementation."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=length,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = attention
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config).train()


def tokens_of(length: int) -> Tensor:
    """Random tokens, 1 × length."""
    import torch

    return torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(SEED + 1))


def run_plain(length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    """Measures transformers without a trainer."""
    import torch

    model, tokens = network(length, "sdpa"), tokens_of(length)

    def step(count: int) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=tokens[:, :count], labels=tokens[:, :count], use_cache=False).loss
        loss.backward()
        return loss.item()

    measure(step, model)


def run_ours(plan: str, length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    """Measures a memory plan of Elongate."""
    import torch
    import yaml

    from elongate.context.attention.kernel.interface import IMPLEMENTATION
    from elongate.context.attention.window import WindowPattern
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example

    word, *settings = plan.split(",")
    kind = getattr(import_module(f"elongate.memory.{word}"), word.title())
    given = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in settings)}
    model, tokens = LanguageModel(network(length, IMPLEMENTATION), word="gpt"), tokens_of(length)
    if window := given.pop("window", None):
        model.attention = WindowPattern(window)
    memory = kind(**given)
    model.precision = precision
    memory = memory.prepare(model, length)
    # As in transformers, the last token is read but has no target.
    targets, scored = tokens.roll(-1, 1), torch.ones_like(tokens, dtype=torch.bool)

    def step(count: int) -> float:
        last = scored[:, :count].clone()
        last[:, -1] = False
        return memory.backward(model, Example(tokens[:, :count], targets[:, :count], last, None))

    measure(step, model.network)


def measured_trainer(base: type[Trainer], measure: Callable[[Step, torch.nn.Module], None]) -> type[Trainer]:
    """A subclass of a trainer that measures its training step when its own loop calls it, and is otherwise unchanged."""

    class Measured(base):  # type: ignore[misc, valid-type]  # the base is only known at run time
        def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
            assert model.is_gradient_checkpointing, "gradient checkpointing is not on"
            loss = None

            def step(count: int) -> float:
                nonlocal loss
                part = {key: value[:, :count] for key, value in inputs.items()}
                loss = super(Measured, self).training_step(model, part, part["labels"][:, 1:].ne(-100).sum())
                return loss.item()

            measure(step, model)
            return loss

    return Measured


def training_arguments(precision: str, folder: str) -> dict[str, Any]:
    """The arguments of both trainers."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": 1,
        "max_steps": 1,
        "gradient_checkpointing": True,
        "optim": "sgd",  # runs after the measured step, without state
        "bf16": precision == "bf16",
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def run_trainer(length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    """Measures `transformers.Trainer`."""
    from transformers import Trainer, TrainingArguments

    row = tokens_of(length)[0]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(**training_arguments(precision, folder))
        rows = [{"input_ids": row, "labels": row}]
        measured_trainer(Trainer, measure)(model=network(length, "sdpa"), args=arguments, train_dataset=rows).train()


def run_trl(length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    """Measures TRL's `SFTTrainer`."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    # It requires a tokenizer even if the data are tokens.
    words = {"<eos>": 0, "<unk>": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), eos_token="<eos>", pad_token="<eos>")
    rows = Dataset.from_dict({"input_ids": [tokens_of(length)[0].tolist()]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(**training_arguments(precision, folder), max_length=None)
        kind = measured_trainer(SFTTrainer, measure)
        kind(model=network(length, "sdpa"), args=arguments, train_dataset=rows, processing_class=tokenizer).train()


# -- one measurement, in its own process -----------------------------------------------------------------------------------------


def measurement(peer: str, length: int, precision: str, threads: int, kind: str) -> dict[str, Any]:
    """The fields of a `Row` that come from the measuring process."""
    import torch

    from elongate.peak_memory import peak_memory_bytes, reset_peak_memory

    torch.set_num_threads(threads)
    cpu, figures = torch.device("cpu"), {}

    def measure(step: Step, model: torch.nn.Module) -> None:
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

    if peer.startswith(OURS):
        run_ours(peer.removeprefix(OURS), length, precision, measure)
    else:
        {"plain": run_plain, "trainer": run_trainer, "trl": run_trl}[peer](length, precision, measure)
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
    command = [sys.executable, __file__, "--measure", json.dumps(task)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=given.timeout, env=environment(kind, given.threads)
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {given.timeout} s"
    if done.returncode < 0:
        return f"ended by signal {-done.returncode} (out of memory?)"
    if done.returncode:
        return "failed:\n" + "\n".join(done.stderr.splitlines()[-12:])
    return Row(run=given.run, command=given.command, **task, **json.loads(done.stdout.splitlines()[-1]))


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
