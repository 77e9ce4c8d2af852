"""One training step on one long sequence: time and peak memory of Elongate beside what people use today.

    make bench                                                     lengths 2048 and 4096, minutes
    python benchmarks/long_sequences.py --folder docs --peers trainer trl --ours stream stream,keep_attention=false checkpoint \
        --lengths 8192 16384 32768                                 the full run: hours, and 18 GiB of memory for the Trainer
    python benchmarks/long_sequences.py --folder docs --append --peers --ours stream --lengths 65536
    python benchmarks/long_sequences.py --folder docs --page       the table and the plot once more, from the CSV

Model: Llama classes, 8 layers, d 512, 8 heads over 2 key/value heads, f 1408, vocabulary 32000, a head of its own. Weights and tokens are
drawn from fixed seeds, the same for everyone. Each measurement is a process of its own.

- `plain`: `model(input_ids, labels=…).loss.backward()`.
- `trainer`: `transformers.Trainer` with `gradient_checkpointing=True`, everything else as it comes.
- `trl`: TRL's `SFTTrainer`, which checkpoints too, with its own collator. Its default loss is the chunked one: called "nll" in 1.16, at
  most 4096 × 32768 logits at once, and "chunked_nll" before. The entropy and accuracy that it logs come with it.
- ours: a memory plan and its settings, `stream` or `stream,keep_attention=false,chunk_length=256`; `window=512` beside them is its
  attention (another loss, so not in one folder with the others).

A step is one forward and one backward of the whole sequence into gradients that exist already: of both trainers their `training_step`,
called by their own loop. Data loading, clipping and the optimizer are outside, alike for all. A step of WARMUP tokens comes first: what is
loaded once is not counted.

Peak memory is the high-water mark of resident memory during the step less the resident memory just before it, when weights and zeroed
gradients are there. The mark (VmHWM) is kept by the kernel at every change, and reset through /proc/self/clear_refs before the step, so
nothing that came earlier is in it. Memory is measured once, in a process with MALLOC_MMAP_THRESHOLD_=262144, so that what is freed leaves
the process; time is measured in others without, to and fro (A B B A), so that a drift of the machine meets all alike.

A measurement whose loss is not that of the first one at its length is refused, and so is one whose gradient has another norm.
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

Step = Callable[[int], float]  # forward and backward of the first so many tokens: the loss


# -- what is compared ----------------------------------------------------------------------------------------------------------


def network(length: int, attention: str) -> torch.nn.Module:
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
    import torch

    return torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(SEED + 1))


def run_plain(length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    import torch

    model, tokens = network(length, "sdpa"), tokens_of(length)

    def step(count: int) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=tokens[:, :count], labels=tokens[:, :count], use_cache=False).loss
        loss.backward()
        return loss.item()

    measure(step, model)


def run_ours(plan: str, length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    import torch
    import yaml

    from elongate.context.attention.kernel.interface import IMPLEMENTATION
    from elongate.context.attention.window import Window
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example

    word, *settings = plan.split(",")
    kind = getattr(import_module(f"elongate.memory.{word}"), word.title())
    given = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in settings)}
    model, tokens = LanguageModel(network(length, IMPLEMENTATION), word="gpt"), tokens_of(length)
    if window := given.pop("window", None):
        model.attention = Window(window_length=window)
    memory = kind(**given)
    model.precision = precision
    memory = memory.prepare(model, length)
    # As transformers does it: the last token is read and has no target.
    targets, scored = tokens.roll(-1, 1), torch.ones_like(tokens, dtype=torch.bool)

    def step(count: int) -> float:
        last = scored[:, :count].clone()
        last[:, -1] = False
        return memory.backward(model, Example(tokens[:, :count], targets[:, :count], last, None))

    measure(step, model.network)


def measured_trainer(base: type[Trainer], measure: Callable[[Step, torch.nn.Module], None]) -> type[Trainer]:
    """A trainer that measures its own training step where its own loop comes to it, and is itself otherwise."""

    class Measured(base):  # type: ignore[misc, valid-type]
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
    return {
        "output_dir": folder,
        "per_device_train_batch_size": 1,
        "max_steps": 1,
        "gradient_checkpointing": True,
        "optim": "sgd",  # follows the step that is measured; no state
        "bf16": precision == "bf16",
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def run_trainer(length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    from transformers import Trainer, TrainingArguments

    row = tokens_of(length)[0]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(**training_arguments(precision, folder))
        rows = [{"input_ids": row, "labels": row}]
        measured_trainer(Trainer, measure)(model=network(length, "sdpa"), args=arguments, train_dataset=rows).train()


def run_trl(length: int, precision: str, measure: Callable[[Step, torch.nn.Module], None]) -> None:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    # It asks for a tokenizer even where the data are tokens.
    words = {"<eos>": 0, "<unk>": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), eos_token="<eos>", pad_token="<eos>")
    rows = Dataset.from_dict({"input_ids": [tokens_of(length)[0].tolist()]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(**training_arguments(precision, folder), max_length=None)
        kind = measured_trainer(SFTTrainer, measure)
        kind(model=network(length, "sdpa"), args=arguments, train_dataset=rows, processing_class=tokenizer).train()


# -- one measurement, in a process of its own ------------------------------------------------------------------------------------


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
            # What the warm-up left in the heap would be used again, and not be seen.
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
    """Of a measuring process. Only memory is measured with the pinned threshold: it makes every larger tensor a system call."""
    inherited = {key: value for key, value in os.environ.items() if key != "MALLOC_MMAP_THRESHOLD_"}
    ours = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    return inherited | ours | ({"MALLOC_MMAP_THRESHOLD_": "262144"} if kind == "memory" else {})


def measured(peer: str, length: int, kind: str, given: argparse.Namespace) -> Row | str:
    """A row, or why there is none."""
    task = {"peer": peer, "length": length, "precision": given.precision, "threads": given.threads, "kind": kind}
    command = [sys.executable, __file__, "--measure", json.dumps(task)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=given.timeout, env=environment(kind, given.threads)
        )
    except subprocess.TimeoutExpired:
        return f"given up after {given.timeout} s"
    if done.returncode < 0:
        return f"ended by signal {-done.returncode} (out of memory?)"
    if done.returncode:
        return "failed:\n" + "\n".join(done.stderr.splitlines()[-12:])
    return Row(run=given.run, command=given.command, **task, **json.loads(done.stdout.splitlines()[-1]))


# -- all of them ------------------------------------------------------------------------------------------------------------------


def tasks(given: argparse.Namespace) -> Iterator[tuple[str, int, str]]:
    """(peer, length, kind): memory once each, then time to and fro."""
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
    parser.add_argument("--repeats", type=int, default=2, help="of a time; even numbers meet a drift of the machine alike")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=float, help="seconds after which a measurement is given up")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="of long_sequences.csv, .md and .png")
    parser.add_argument("--append", action="store_true", help="keep the rows that are there")
    parser.add_argument("--page", action="store_true", help="measure nothing: table and plot from the CSV that is there")
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
