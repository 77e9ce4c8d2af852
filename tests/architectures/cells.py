"""The cells of docs/architectures.md: an architecture computed by us and by plain transformers, eager and in float32.

A cell returns the mark of the page, raises `ConfigError` where the product refuses, and `AssertionError` for a wrong number.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import and_masks, eager_mask

from elongate.context.attention.attention import Attention
from elongate.context.attention.full import Full
from elongate.context.attention.window import Window
from elongate.context.curriculum.fixed import Fixed
from elongate.context.strategy import Strategy
from elongate.data.sequences import Batch
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError, inside
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Plan
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.compatibility import check_network, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained
from elongate.objectives.causal import Causal
from elongate.objectives.masked import Masked
from elongate.objectives.objective import Example, Objective
from elongate.training.export import export
from elongate.tuning.lora import Lora
from tests.architectures.zoo import Architecture
from tests.models.small import position

FACTOR = 4
WINDOW = 12  # tokens; shorter than the models' own windows
TOLERANCE = 1e-5  # of losses; of logits, relative to the largest; of gradients, relative to the norm of all
ROWS = 2
TOKENIZER = ByteTokenizer().with_mask()


@dataclass(frozen=True)
class Pass:
    """The loss of a pass and the gradients of all parameters."""

    loss: float
    gradients: dict[str, Tensor]

    def require(self, other: Pass, what: str) -> None:
        """Raises `AssertionError` unless loss and gradients equal those of a reference."""
        assert abs(self.loss - other.loss) <= TOLERANCE, f"{what}: loss {self.loss:.6f}, expected {other.loss:.6f}"
        assert self.gradients.keys() == other.gradients.keys(), f"{what}: gradients of other parameters"
        norm = torch.stack([gradient.norm() for gradient in other.gradients.values()]).norm()
        for name, gradient in self.gradients.items():
            error = float((gradient - other.gradients[name]).norm() / norm)
            assert error <= TOLERANCE, f"{what}: gradient of {name} differs by {error:.1e}"


class Specimen:
    """A tiny checkpoint in a folder, opened as a run opens it."""

    def __init__(self, architecture: Architecture, folder: Path) -> None:
        self.architecture, self.folder = architecture, folder
        self.source = folder / "source"
        architecture.save(self.source)

    @cached_property
    def model(self) -> LanguageModel:
        """Return the untouched model. Raises `ConfigError`."""
        model = Pretrained(source=str(self.source)).build(TOKENIZER.vocab_size, seed=0)
        model.mask_token = TOKENIZER.mask
        check_network(model)
        return model

    @property
    def original_length(self) -> int:
        """Return the length in tokens that the model was trained on."""
        return self.model.original_length

    @cached_property
    def objective(self) -> Objective:
        """Return what the model learns."""
        return Causal() if "causal" in self.model.has else Masked()

    @property
    def target_length(self) -> int:
        """Return the length in tokens that the model is extended to."""
        return FACTOR * self.original_length

    @cached_property
    def scaling(self) -> str:
        """Return the word of the position that extends the model: YaRN, or else the first that acts on it."""
        for word in self._scalings:
            with suppress(ConfigError):
                check_strategy(self.model, self.strategy(word), self.original_length)
                return word
        return self._scalings[0]

    @property
    def _scalings(self) -> tuple[str, ...]:
        if "rotary" in self.model.has:
            return ("yarn", "ntk")
        return ("interpolate",) if "learned_positions" in self.model.has else ("none",)

    def strategy(self, word: str, attention: Attention | None = None) -> Strategy:
        """Return a strategy; one that changes no positions has no longer target, unless there is nothing to scale."""
        target = self.original_length if word == "none" and self._scalings != ("none",) else self.target_length
        return Strategy(position=position(word), attention=attention or Full(), curriculum=Fixed(), target_length=target)

    def ready(self, word: str = "none", attention: Attention | None = None) -> LanguageModel:
        """Return the model with a strategy, checked as a run checks it. Raises `ConfigError`."""
        strategy = self.strategy(word, attention)
        model = copy.deepcopy(self.model)
        self.objective.check(model.has, model.word)
        strategy.check_length(self.original_length)
        check_strategy(model, strategy, self.original_length)
        model.extend(strategy, self.original_length, strategy.target_length)
        model.network.train()
        return model

    def example(self, length: int, model: LanguageModel) -> Example:
        """Return two rows of random bytes."""
        tokens = np.random.default_rng(0).integers(3, 255, (ROWS, length + 1))
        return self.objective.examples(Batch(tokens, None, None), model)[0]

    def trained(self, model: LanguageModel, plan: Plan, length: int) -> Pass:
        """Return a pass of ours. Raises `ConfigError`."""
        plan.check_able(model.has, model.word)
        network = model.network
        network.zero_grad(set_to_none=True)
        loss = plan.prepare(model, length).backward(model, self.example(length, model))
        return Pass(loss, _gradients(network))

    def expected(self, folder: Path, length: int) -> Pass:
        """Return the same pass of plain transformers."""
        network, example = self.plain(folder).train(), self.example(length, self.model)
        logits = network(input_ids=example.inputs).logits
        loss = F.cross_entropy(logits[example.scored], example.targets[example.scored])
        loss.backward()
        return Pass(float(loss), _gradients(network))

    def plain(self, folder: Path) -> PreTrainedModel:
        """Return the network of a folder in plain transformers."""
        return self.architecture.auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)

    def exported(self, model: LanguageModel, name: str) -> Path:
        """Return the folder of an export."""
        export(model, TOKENIZER, self.folder / name)
        return self.folder / name


def _gradients(network: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def _require_logits(specimen: Specimen, ours: dict[int, Tensor], folder: Path) -> None:
    """Raises `AssertionError` unless plain transformers computes the same logits from a folder."""
    network = specimen.plain(folder).eval()
    for length, found in ours.items():
        with torch.no_grad():
            expected = network(input_ids=_text(length)).logits
        error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        assert error <= TOLERANCE, f"logits of {length} tokens of the export differ by {error:.1e}"


def _logits(model: LanguageModel, *lengths: int) -> dict[int, Tensor]:
    """Return our logits of texts of these lengths."""
    model.network.eval()
    with torch.no_grad():
        return {length: model.logits(model.hidden(_text(length))) for length in lengths}


def _text(length: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(3, 255, (1, length)))


def same_loss(specimen: Specimen) -> str:
    """The untouched checkpoint: loss and gradients of plain transformers, also with recomputed layers."""
    length = specimen.original_length
    expected = specimen.expected(specimen.source, length)
    specimen.trained(specimen.ready(), Plain(), length).require(expected, "plain")
    with suppress(ConfigError):  # a few networks cannot recompute their layers
        plan = Checkpoint(micro_batch_tokens=length, mlp_chunk_length=24)
        specimen.trained(specimen.ready(), plan, length).require(expected, "checkpoint")
    return "✓"


def scaled(specimen: Specimen) -> str:
    """The extended model: loss, gradients and logits of its export in plain transformers."""
    model, length = specimen.ready(specimen.scaling), specimen.target_length
    ours = specimen.trained(model, Plain(), length)
    folder = specimen.exported(model, "scaled")
    ours.require(specimen.expected(folder, length), "the export")
    _require_logits(specimen, _logits(model, length, specimen.original_length, 40), folder)
    return "✓" if specimen.scaling == "yarn" else f"✓ {specimen.scaling}"


def windowed(specimen: Specimen) -> str:
    """A sliding window over all layers: loss and gradients of plain transformers with its masks cut to the window."""
    length = specimen.original_length
    ours = specimen.trained(specimen.ready(attention=Window(window_length=WINDOW)), Plain(), length)
    with _cut_masks():
        ours.require(specimen.expected(specimen.source, length), "window")
    return "✓"


def streamed(specimen: Specimen) -> str:
    """Computed in chunks: loss and gradients of the whole, also scaled, and in a window."""
    length = specimen.original_length
    ours = specimen.trained(specimen.ready(), Stream(chunk_length=24), length)
    ours.require(specimen.trained(specimen.ready(), Plain(), length), "stream")
    for word, attention, reach in [
        (specimen.scaling, Full(), specimen.target_length),
        ("none", Window(window_length=WINDOW), length),
    ]:
        with suppress(ConfigError):  # refused without streaming too
            ready = specimen.ready(word, attention)
            expected = specimen.trained(copy.deepcopy(ready), Plain(), reach)
            specimen.trained(ready, Stream(chunk_length=100 if reach > 100 else 24), reach).require(expected, f"stream, {word}")
    return "✓"


def adapted(specimen: Specimen) -> str:
    """LoRA: merged and exported, the logits of the run in plain transformers."""
    model = specimen.ready()
    with inside("tuning"):
        Lora(rank=4).apply(model, 0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:  # zeros at the start
                parameter.normal_(std=0.1)
    specimen.trained(model, Plain(), specimen.original_length)
    ours = _logits(model, specimen.original_length)
    Lora(rank=4).merge(model)
    _require_logits(specimen, ours, specimen.exported(model, "adapted"))
    return "✓"


@contextmanager
def _cut_masks() -> Iterator[None]:
    """Cut every mask that transformers makes for its eager attention to the window."""

    def within(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() < WINDOW

    def cut(*sizes: Any, mask_function: Callable[..., Tensor], **others: Any) -> Tensor:
        others["allow_is_bidirectional_skip"] = False
        return eager_mask(*sizes, mask_function=and_masks(mask_function, within), **others)

    AttentionMaskInterface.register("eager", cut)
    try:
        yield
    finally:
        AttentionMaskInterface.register("eager", eager_mask)


CELLS: dict[str, Callable[[Specimen], str]] = {
    "same loss": same_loss,
    "YaRN": scaled,
    "window": windowed,
    "stream": streamed,
    "LoRA": adapted,
}


def outcome(specimen: Specimen, cell: str) -> str:
    """Return the mark of a cell, or the line with which it is refused, without what differs from row to row."""
    try:
        return CELLS[cell](specimen)
    except ConfigError as refusal:
        kind = re.escape(specimen.architecture.model_type)
        return re.sub(rf" a {kind}\b", " a …", str(refusal).replace(str(specimen.source), "…"))
