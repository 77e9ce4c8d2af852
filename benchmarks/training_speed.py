"""Compares training speed with `transformers.Trainer`, with the same model, weights, sequences, optimizer and precision.

    make bench                                                     lengths 256 and 1024, fp32
    python benchmarks/training_speed.py --precision bf16 --lengths 512
    python benchmarks/training_speed.py --precision bf16 --lengths 256 --sides compiled elongate       compile=true against eager

Each measurement runs in its own process. The two sides alternate (A B A B …), and their medians are compared. Both sides run their whole
loop; the time is from the end of step WARMUP to the end of the last step. In fp32 the comparison fails if losses differ by more than 1e-3
nats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processes import Child, Failed

WARMUP = 3
BATCH_TOKENS = 8192
SIDES = ("elongate", "compiled", "trainer")


def job_of(length: int, steps: int, precision: str, folder: Path, micro_batch_tokens: int = 4096, compiled: bool = False):  # type: ignore[no-untyped-def]  # the type would need an import at the top
    from hydra import compose, initialize_config_dir
    from omegaconf import open_dict

    from elongate.build import build_job
    from elongate.cli import conf_directory, register_resolvers

    register_resolvers()
    overrides = [
        "tracking=none",
        "context=none",
        "context/curriculum=fixed",
        "evaluation=[]",
        "schedule=constant",
        "schedule.warmup_ratio=0",
    ]
    overrides += [f"model.original_length={length}", f"context.target_length={length}", f"steps={steps}", f"batch_tokens={BATCH_TOKENS}"]
    overrides += [f"precision={precision}", "training.checkpoint_steps=1000000", f"data.cache={folder}/cache"]
    overrides += [f"memory.micro_batch_tokens={micro_batch_tokens}", f"compile={compiled}"]
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("train", overrides=overrides, return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config.hydra
    return build_job(config, choices)


def run_elongate(
    length: int, steps: int, precision: str, folder: Path, micro_batch_tokens: int, compiled: bool
) -> tuple[list[float], list[float]]:
    """Trains with Elongate. Returns the end of each step in seconds, and the loss of each step."""
    from elongate.context.curriculum.curriculum import Stage
    from elongate.training.base import without_base
    from elongate.training.interrupt import Interrupt
    from elongate.training.loop import Course, fit
    from elongate.training.progress import Forecast
    from elongate.training.run_directory import Lines, RunDirectory
    from elongate.training.session import Session
    from elongate.training.text import load_text

    job = job_of(length, steps, precision, folder, micro_batch_tokens, compiled)
    text = load_text(job)
    model = without_base(job, text.tokenizer).build(job)
    ends: list[float] = []
    losses: list[float] = []

    class Clock:
        def start(self, history: Lines) -> None:
            pass

        def log(self, line: Mapping[str, float]) -> None:
            ends.append(time.perf_counter())
            losses.append(line["loss"])

    course = Course(length, [Stage("bench", length, steps)], text.corpus.train, [], Forecast(BATCH_TOKENS, 0, 0, ()))
    fit(job, model, course, Session(RunDirectory(folder), Clock(), Interrupt()))
    return ends, losses


def run_trainer(length: int, steps: int, precision: str, folder: Path) -> tuple[list[float], list[float]]:
    """The same for `transformers.Trainer`."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from elongate.data.sequences import Sequences
    from elongate.data.tokens import load_corpus

    job = job_of(length, steps, precision, folder)
    tokenizer = job.tokenizer.fit(job.data)
    count = BATCH_TOKENS // length
    sequences = Sequences(load_corpus(job.data, tokenizer).train, length, seed=0, isolate_documents=False)
    network = job.model.build(tokenizer.vocab_size, job.seed).network
    network.set_attn_implementation("sdpa")
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            ends.append(time.perf_counter())

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return steps * count

        def __getitem__(self, index: int) -> dict[str, object]:
            tokens = torch.from_numpy(sequences.batch(index, 1).tokens[0])
            # transformers would shift `labels` and drop the last target; `shift_labels` are used unchanged.
            return {"input_ids": tokens[:-1], "shift_labels": tokens[1:], "labels": tokens[:-1]}

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: object, **kwargs: object) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=count,
        max_steps=steps,
        learning_rate=job.optimizer.lr,
        lr_scheduler_type="constant",
        weight_decay=job.optimizer.weight_decay,
        adam_beta1=job.optimizer.beta1,
        adam_beta2=job.optimizer.beta2,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = InOrder(model=network, args=arguments, train_dataset=Rows(), callbacks=[Clock()])
    trainer.train()
    return ends, [line["loss"] for line in trainer.state.log_history if "loss" in line]


def measurement(side: str, length: int, steps: int, precision: str, micro_batch_tokens: int) -> tuple[list[float], list[float]]:
    """The end of each step of one side in seconds, and the losses."""
    with tempfile.TemporaryDirectory() as folder:
        if side == "trainer":
            return run_trainer(length, steps, precision, Path(folder))
        return run_elongate(length, steps, precision, Path(folder), micro_batch_tokens, side == "compiled")


def measured(**task: Any) -> tuple[float, list[float]]:
    """Runs one side in its own process. Returns tokens per second, and the losses."""
    try:
        ends, losses = Child(__file__, task).result()
    except Failed as reason:
        sys.exit(str(reason))
    return BATCH_TOKENS * (len(ends) - WARMUP) / (ends[-1] - ends[WARMUP - 1]), losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--sides", choices=SIDES, nargs=2, default=["elongate", "trainer"], help="the first is compared with the second")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096, help="for Elongate; the Trainer computes the whole batch")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measurement(**given.measure)))
        return
    common = {"steps": given.steps, "precision": given.precision, "micro_batch_tokens": given.micro_batch_tokens}
    print(f"length  {given.sides[0]:>8} tok/s  {given.sides[1]:>8} tok/s  ratio (each round)       largest difference in loss")
    for length in given.lengths:
        rounds = [[measured(side=side, length=length, **common) for side in given.sides] for _ in range(given.rounds)]
        apart = max(abs(a - b) for ours, theirs in rounds for a, b in zip(ours[1], theirs[1], strict=True))
        if given.precision == "fp32" and apart > 1e-3:
            sys.exit(f"length {length}: the losses differ by {apart:.1e}, so the two sides do not train the same")
        ours, theirs = (statistics.median(r[side][0] for r in rounds) for side in (0, 1))
        ratios = ", ".join(f"{r[0][0] / r[1][0]:.2f}" for r in rounds)
        print(f"{length:6}  {ours:14,.0f}  {theirs:14,.0f}  {ours / theirs:.2f} ({ratios})  {apart:.1e}", flush=True)


if __name__ == "__main__":
    main()
