"""Measured and predicted peak memory of one step, without weights and gradients: `python -m tests.memory.peak --length 8192 stream plain`.

Runs in its own process, on one thread. Set MALLOC_MMAP_THRESHOLD_=262144, so that freed blocks are returned to the system immediately.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from elongate.context.attention.kernel.interface import IMPLEMENTATION
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.memory.planner.step_costs import StepCosts
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example
from elongate.peak_memory import peak_memory_bytes, reset_peak_memory

PLANS = {
    "plain": Plain(),
    "checkpoint": Checkpoint(),
    "checkpoint-again": Checkpoint(keep_attention=False),
    "stream": Stream(),
    "stream-again": Stream(keep_attention=False),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plans", nargs="+", choices=PLANS)
    parser.add_argument("--precision", default="fp32")
    for name, size in {"length": 8192, "layers": 8, "dim": 512, "heads": 8, "kv_heads": 2, "mlp_dim": 1408, "vocab_size": 32000}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({plan: compared(PLANS[plan], given) for plan in given.plans}))


def compared(plan: Plain | Checkpoint | Stream, given: argparse.Namespace) -> dict[str, int]:
    config = LlamaConfig(
        vocab_size=given.vocab_size,
        hidden_size=given.dim,
        intermediate_size=given.mlp_dim,
        num_hidden_layers=given.layers,
        num_attention_heads=given.heads,
        num_key_value_heads=given.kv_heads,
        max_position_embeddings=given.length,
    )
    config._attn_implementation = IMPLEMENTATION
    model = LanguageModel(LlamaForCausalLM(config), word="gpt")
    model.precision = given.precision
    predicted, _ = StepCosts(model).predict(plan, 1, given.length)
    return {"predicted": predicted, "measured": measured(model, plan, given.length)}


def measured(model: LanguageModel, plan: Plain | Checkpoint | Stream, length: int) -> int:
    model.network.train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    prepared = plan.prepare(model, length)
    tokens = torch.randint(model.network.config.vocab_size, (1, length + 1))
    example = Example(tokens[:, :-1], tokens[:, 1:], torch.ones(1, length, dtype=torch.bool), None)
    # A short step first, for everything that torch sets up once.
    prepared.backward(model, Example(*(x[:, :600] for x in (example.inputs, example.targets, example.scored)), None))
    reset_peak_memory(model.device)
    before = 4096 * int(Path("/proc/self/statm").read_text().split()[1])
    prepared.backward(model, example)
    return peak_memory_bytes(model.device) - before


if __name__ == "__main__":
    main()
