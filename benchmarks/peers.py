"""The programs that the benchmarks compare: transformers, its Trainer (also with Liger kernels), TRL, and Elongate.

Weights and tokens come from fixed seeds and are the same for all programs on a device.

- `plain`: `model(input_ids, labels=…).loss.backward()`.
- `trainer`: `transformers.Trainer` with `gradient_checkpointing=True` and defaults for everything else.
- `liger`: the same with `use_liger_kernel=True`.
- `trl`: TRL's `SFTTrainer`, which also uses gradient checkpointing, with its own collator. Its default loss is the chunked one: called
  "nll" in 1.16, with at most 4096 × 32768 logits at a time, and "chunked_nll" before. It includes the entropy and accuracy that TRL logs.
- ours, with `kernels=auto`: a memory plan and its settings, `stream` or `stream,keep_attention=false,chunk_length=256`. The setting
  `window=512` selects the attention.

A step is one forward and one backward pass of the whole sequence into existing gradients. For the trainers it is their `training_step`,
called by their own loop. Data loading, clipping and the optimizer are not included for any program.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import Trainer

    from elongate.models.language_model import LanguageModel

NAMES = {
    "plain": "transformers",
    "trainer": "Trainer + checkpointing",
    "liger": "Trainer + checkpointing + Liger",
    "trl": "TRL SFTTrainer + checkpointing",
}
PACKAGES = {"plain": (), "trainer": ("accelerate",), "liger": ("accelerate", "liger-kernel"), "trl": ("accelerate", "trl")}
OURS = "elongate "  # prefix of a memory plan in the name of a program
SEED = 0

LLAMA_1B = {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
LLAMA_8B = {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_3: dict[str, Any] = {"num_key_value_heads": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
SMALL = {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {**LLAMA_1B, **LLAMA_3, "tie_word_embeddings": True},  # 1.24 billion parameters
    "8b": {**LLAMA_8B, **LLAMA_3, "tie_word_embeddings": False},
    "small": {**SMALL, "num_key_value_heads": 2},
    "tiny": {**TINY, "num_key_value_heads": 2},
}

Step = Callable[[int], float]  # forward and backward pass of that many first tokens; returns the loss


@dataclass(frozen=True)
class Setting:
    """What all programs compute."""

    shape: str  # one of SHAPES
    length: int
    precision: str  # fp32 or bf16
    device: str = "cpu"


Measure = Callable[..., None]  # of a step, the network, and what is known about the plan


def network(setting: Setting, attention: str, dtype: str = "float32") -> torch.nn.Module:
    """The model with fresh weights, created on the device, and the named attention implementation."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SHAPES[setting.shape], max_position_embeddings=setting.length, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(SEED)
    with torch.device(setting.device):
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=getattr(torch, dtype)).train()


def tokens_of(setting: Setting) -> Tensor:
    """Random tokens in main memory, 1 × length."""
    import torch

    vocabulary = SHAPES[setting.shape]["vocab_size"]
    return torch.randint(vocabulary, (1, setting.length), generator=torch.Generator().manual_seed(SEED + 1))


def load(program: str) -> None:
    """Imports what the program needs."""
    if program.startswith(OURS):
        modules = ("elongate.models.language_model", "elongate.memory.planner.planner", "transformers.models.llama.modeling_llama")
    else:
        modules = {"plain": (), "trl": ("datasets", "trl")}.get(program, ("transformers.trainer",))
    for name in ("torch", "transformers", *modules):
        import_module(name)


def run(program: str, setting: Setting, measure: Measure) -> None:
    """Calls `measure` with the step of the program and its network."""
    if program.startswith(OURS):
        run_ours(program.removeprefix(OURS), setting, measure)
    else:
        {"plain": run_plain, "trainer": run_trainer, "liger": partial(run_trainer, liger=True), "trl": run_trl}[program](setting, measure)


def run_plain(setting: Setting, measure: Measure) -> None:
    """Measures transformers without a trainer."""
    import torch

    model, tokens = network(setting, "sdpa"), tokens_of(setting).to(setting.device)

    def step(count: int) -> float:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
            loss = model(input_ids=tokens[:, :count], labels=tokens[:, :count], use_cache=False).loss
        loss.backward()
        return loss.item()

    measure(step, model)


def run_ours(
    plan: str, setting: Setting, measure: Measure, dtype: str = "float32", change: Callable[[LanguageModel], None] | None = None
) -> None:
    """Measures a memory plan of Elongate. `change` is applied to the model first."""
    import torch
    import yaml

    from elongate.context.attention.kernel.interface import IMPLEMENTATION
    from elongate.context.attention.window import WindowPattern
    from elongate.models.kernels import use_kernels
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example

    word, *settings = plan.split(",")
    kind = getattr(import_module(f"elongate.memory.{word}"), word.title())
    given = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in settings)}
    model, tokens = LanguageModel(network(setting, IMPLEMENTATION, dtype), word="gpt"), tokens_of(setting).to(setting.device)
    if window := given.pop("window", None):
        model.attention = WindowPattern(window)
    model.precision = setting.precision
    model.kernels = use_kernels(model.network, "auto", model.device)
    if change is not None:
        change(model)
    began = time.perf_counter()
    memory = kind(**given).prepare(model, setting.length)
    notes = {"plan": memory.overrides, "plan_seconds": time.perf_counter() - began}
    # As in transformers, the last token is read but has no target.
    targets, scored = tokens.roll(-1, 1), torch.ones_like(tokens, dtype=torch.bool)

    def step(count: int) -> float:
        last = scored[:, :count].clone()
        last[:, -1] = False
        return float(memory.backward(model, Example(tokens[:, :count], targets[:, :count], last, None)))

    measure(step, model.network, **notes)


def measured_trainer(base: type[Trainer], measure: Measure) -> type[Trainer]:
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


def training_arguments(setting: Setting, folder: str, liger: bool = False) -> dict[str, Any]:
    """The arguments of both trainers."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": 1,
        "max_steps": 1,
        "gradient_checkpointing": True,
        "use_liger_kernel": liger,
        "optim": "sgd",  # runs after the measured step, without state
        "bf16": setting.precision == "bf16",
        "use_cpu": setting.device == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def run_trainer(setting: Setting, measure: Measure, liger: bool = False) -> None:
    """Measures `transformers.Trainer`."""
    from transformers import Trainer, TrainingArguments

    row = tokens_of(setting)[0]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(**training_arguments(setting, folder, liger))
        rows = [{"input_ids": row, "labels": row}]
        measured_trainer(Trainer, measure)(model=network(setting, "sdpa"), args=arguments, train_dataset=rows).train()


def run_trl(setting: Setting, measure: Measure) -> None:
    """Measures TRL's `SFTTrainer`."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    # It requires a tokenizer even if the data are tokens.
    words = {"<eos>": 0, "<unk>": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), eos_token="<eos>", pad_token="<eos>")
    rows = Dataset.from_dict({"input_ids": [tokens_of(setting)[0].tolist()]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(**training_arguments(setting, folder), max_length=None)
        kind = measured_trainer(SFTTrainer, measure)
        kind(model=network(setting, "sdpa"), args=arguments, train_dataset=rows, processing_class=tokenizer).train()
