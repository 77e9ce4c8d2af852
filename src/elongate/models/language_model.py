"""A transformers network with the operations that training and evaluation need.

positions.py sets positions, head.py finds the parts of the head, and compatibility.py checks strategies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from elongate.context.attention.attention import Attention, Pattern
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.kernel.verification import verify_attention
from elongate.context.position.position import Position
from elongate.context.strategy import Strategy
from elongate.models import calls, elongate_format
from elongate.models.adjustment import find_adjustment
from elongate.models.gradient_sink import GradientSink
from elongate.models.head import Adjustment, Head, head_transform, head_weights
from elongate.models.kernels import Kernels
from elongate.models.parts import head_dim, language_body, language_config, language_part, layer_config
from elongate.models.positions import NetworkPositions
from elongate.models.precision import compute_dtype, has_narrow_weights, narrow_residual_stream, widened
from elongate.models.saving import save_network
from elongate.models.stored_dtype import StoredDtypes

# Show one progress bar at a time: the one of the training.
transformers_logging.disable_progress_bar()


class LanguageModel:
    """A network whose head is applied apart from its body, so that the logits of a whole sequence never exist."""

    block_length: int = 1  # tokens that are encoded together

    def __init__(self, network: PreTrainedModel, word: str) -> None:
        self.network = network
        self.word = word
        self.precision = "fp32"
        self.kernels = Kernels()  # none until `use_kernels` was called
        self.gradients = GradientSink()  # receives gradients that bypass autograd
        self.attention: Pattern = Full()
        self.positions = NetworkPositions(network)
        self.planned_device: torch.device | None = None  # of a model without weights; None: where the weights are
        self.mask_token: int | None = None  # the token that hides others; None: the tokenizer has none
        narrow_residual_stream(network)
        if language_part(network) is not network:
            # Only the language part of a multimodal network is trained.
            network.requires_grad_(False)
            for part in (self.body, network.get_output_embeddings()):
                part.requires_grad_(True)

    @property
    def original_length(self) -> int:
        """Return the length in tokens that the positions reach to at present. Raises `ConfigError`."""
        return self.positions.reach

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens that have an embedding. Not every configuration states it in the same place."""
        return int(self.network.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr, operator, index]  # a matrix

    @property
    def has(self) -> frozenset[str]:
        """Return the properties that strategies, objectives and memory plans can rely on."""
        direction = ("causal",) if self.is_causal else ("bidirectional", "masked")
        attention = ("regions",) if calls.uses_interface(self.network) else ()
        return frozenset({*attention, *self.positions.has, *direction})

    @property
    def position(self) -> Position:
        """Return the context position that is set."""
        return self.positions.current

    @property
    def body(self) -> PreTrainedModel:
        """Return what maps tokens to hidden states."""
        return language_body(self.network)

    @property
    def config(self) -> PreTrainedConfig:
        """Return the configuration of the language part."""
        return language_config(self.network)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.planned_device or next(self.network.parameters()).device

    @cached_property
    def is_causal(self) -> bool:
        """Return whether no token sees the tokens after it: another last token then changes no state before it."""
        tokens = self.probe_text(8)
        other = torch.cat([tokens[:, :-1], tokens[:, :1]], dim=1)
        with self.probed():
            states, changed = (self.hidden(text)[:, :-1] for text in (tokens, other))
        # Experts multiply the tokens that they share in one product, whose rounding depends on all of them.
        return calls.same_states(changed, states, 1e-5)

    @cached_property
    def meets_in_attention(self) -> bool:
        """Return whether tokens influence each other through attention only.

        A short text then has the same hidden states in two chunks as in one.
        """
        length = min(24, self.original_length)
        tokens = torch.arange(1, length + 1, device=self.device)[None] % self.vocab_size
        layout = self.layout(tokens, None)
        with self.probed():
            return calls.same_in_chunks(self.hidden, tokens, layout)

    @cached_property
    def separates_documents(self) -> bool:
        """Return whether tokens that do not meet in attention do not meet at all, as they do in convolutions and recurrences.

        Two documents in one row then have the hidden states that they have alone.
        """
        length = min(24, self.original_length) // 2
        attention, self.attention = self.attention, Full()
        with self.probed():
            separates = calls.same_alone(self.hidden, self.probe_text(2 * length), length)
        self.attention = attention
        return separates

    @cached_property
    def continues_from_cache(self) -> bool:
        """Return whether transformers computes a text from a cache of its start as it does without one."""
        tokens = self.probe_text(16)
        self.set_text_length(tokens.shape[1])
        with self.probed():
            return calls.continues_from_cache(self.network, tokens)

    @cached_property
    def receives_layouts(self) -> bool:
        """Return whether layouts reach the attention of the layers, after a remedy where layers drop them."""
        with self.probed():
            return calls.uses_interface(self.network) and calls.receives_layouts(self.network, self.body, self.probe_text(2))

    # -- computing ---------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        """With bf16, compute in bfloat16; weights that are float32, angles, statistics of norms and losses stay in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def layout(self, inputs: Int[Tensor, "batch length"], positions: Int[Tensor, "batch length"] | None) -> Layout:
        """Return which tokens see which. Positions that restart within a row separate it into documents."""
        frequencies = None
        if self.attention.rotates:
            self.set_text_length(inputs.shape[1], positions)
            frequencies = self.positions.rotary.frequencies.clone()
        slopes = self.positions.slopes
        tensor = None if slopes is None else torch.tensor(slopes, dtype=torch.float64, device=self.device)
        return Layout.for_batch(self.attention, tuple(inputs.shape), positions, frequencies, tensor)

    def set_text_length(self, length: int, positions: Int[Tensor, "batch length"] | None = None) -> None:
        """Set the frequencies that depend on the length of the text. Call this before the network itself; `hidden` does."""
        self.positions.set_text_length(length, positions)

    def hidden(
        self,
        inputs: Int[Tensor, "batch chunk"],
        positions: Int[Tensor, "batch length"] | None = None,
        layout: Layout | None = None,
        context: Int[Tensor, "batch context"] | None = None,
    ) -> Float[Tensor, "batch chunk dim"]:
        """Return the last hidden states of whole sequences, or of the chunk that the layout names.

        `positions` are those of the whole sequences. Only an autoencoder has a context, which it encodes.
        """
        assert context is None, "objectives that have one are refused"
        arguments = self.call_arguments(inputs, positions, layout)
        with self.autocast():
            return self.body(input_ids=inputs, use_cache=False, **arguments).last_hidden_state

    def call_arguments(
        self,
        inputs: Int[Tensor, "batch chunk"],
        positions: Int[Tensor, "batch length"] | None = None,
        layout: Layout | None = None,
    ) -> dict[str, Any]:
        """Return the keyword arguments of a call of the network, and set the length of the text."""
        layout = layout or self.layout(inputs, positions)
        # The length of the whole text, also for a chunk of it.
        self.set_text_length(layout.length, positions)
        numbers = self.positions.numbers(inputs, positions, layout.chunk, self.attention.rotates)
        # Where torch's own attention computes the same, leave it to transformers, torch and their compiler.
        needed = not layout.is_plain or layout.store is not None
        ours = {"layout": layout} if needed and self.receives_layouts else {}
        return {"position_ids": numbers, **ours}

    @property
    def head(self) -> Head:
        """Return what maps states to logits."""
        return Head(*head_weights(self.network), self.adjustment or Adjustment())

    @cached_property
    def adjustment(self) -> Adjustment | None:
        """Return what the network does to its logits after the head; None: something that is not supported.

        Raises `ValueError` if our attention does not support the network.
        """
        tokens = self.probe_text(8)

        def run() -> Tensor:
            return self.network(input_ids=tokens, use_cache=False, **self.call_arguments(tokens)).logits

        with self.probed(), self.autocast():
            return find_adjustment(self.network, self.head_inputs(self.hidden(tokens)), run)

    def head_inputs(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch width"]:
        """Return what the matrix of the head is applied to: in a causal network, the last hidden states."""
        with self.autocast():
            for step in head_transform(self.network):
                states = step(states)
        return states

    def logits(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Return the logits of a few hidden states. Losses of whole texts never need them."""
        return self.head.logits(self.head_inputs(states))

    def probe_text(self, length: int) -> Int[Tensor, "1 length"]:
        """Return a row of different tokens without padding, not longer than the positions reach."""
        padding = getattr(self.config, "pad_token_id", None)  # RoBERTa-style models give it no position
        words = torch.tensor([word for word in range(self.vocab_size) if word != padding], device=self.device)
        return words[torch.arange(self.last_position(length - 1) + 1) % len(words)][None]

    @contextmanager
    def probed(self) -> Iterator[None]:
        """Compute without gradient and dropout, in float32 if no frozen weight prevents it: for comparing two ways to compute the same."""
        precision, training = self.precision, self.network.training
        self.network.eval()
        with torch.no_grad(), widened(self.network):
            self.precision = "bf16" if has_narrow_weights(self.network) else "fp32"
            yield
        self.precision = precision
        self.network.train(training)

    def compile(self) -> None:
        """Compile layer by layer, which takes seconds where compiling the whole network takes minutes."""
        for module in self.network.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    layer.compile()

    # -- the context strategy ----------------------------------------------------------------------

    def extend(self, strategy: Strategy, original_length: int, length: int) -> dict[str, Any]:
        """Apply a strategy for sequences of `length` tokens and return the evidence that it is active.

        The evidence: the frequencies or rows that were built and their distance from the closed form, and the distance of the
        attention from its definition. Call `compatibility.check_strategy` before. May be called again for another length.
        """
        self.positions.sampled_below = None if strategy.sampling is None else length
        self.positions.rotary.start = strategy.from_
        evidence = self.place(strategy.position, original_length, length)
        return evidence | {"attention": self.attend(strategy.attention, original_length, length), "kernels": self.kernels.evidence()}

    def place(self, position: Position, original_length: int, length: int) -> dict[str, Any]:
        """Set the positions only, and return the evidence that they are active."""
        return self.positions.place(position, original_length, length)

    def attend(self, attention: Attention, original_length: int, length: int) -> dict[str, Any]:
        """Set and verify the attention for sequences of `length` tokens. Weights and positions stay the same."""
        self.attention = attention.for_length(length, original_length)
        heads, dtype = (config := layer_config(self.config)).num_attention_heads, compute_dtype(self.network, self.precision)
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        layout = self.layout(torch.zeros(1, length, dtype=torch.long), None)
        return verify_attention(layout, heads, kv_heads, head_dim(config), "causal" in self.has, self.device, dtype)

    def last_position(self, wanted: int) -> int:
        """Return `wanted`, or the last position of a learned table if that is smaller."""
        return self.positions.last(wanted)

    # -- weights -----------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def num_parameters(self) -> int:
        """Return the number of all weights."""
        return sum(p.numel() for p in self.network.parameters())

    def save(self, folder: Path, dtypes: StoredDtypes | None = None) -> None:
        """Write a folder for `from_pretrained`; with a position that plain transformers lacks, in our own format."""
        stored = StoredDtypes() if dtypes is None else dtypes
        if self.position.is_plain:
            save_network(self.network, folder, stored)
        else:
            elongate_format.save(self.network, self.position, *self.positions.lengths, folder, stored)
