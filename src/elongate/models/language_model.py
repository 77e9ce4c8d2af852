"""The network with what training and evaluation ask of it: hidden states, the head apart, positions that can be set and proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from elongate.context.attention.attention import Attention
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.kv_store import Kept
from elongate.context.attention.kernel.layout import Layout
from elongate.context.attention.kernel.verification import prove
from elongate.context.position.none import Unchanged
from elongate.context.position.position import Position
from elongate.context.position.scaling import Scaling
from elongate.context.position.table import Table
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError
from elongate.models import elongate_format as own_format
from elongate.models.gradient_sink import GradientSink
from elongate.models.mlm_heads import transform_of
from elongate.models.probes import knows_distances, turns_as_we_do, windows_of
from elongate.models.rotary import RotaryPositions, head_dim
from elongate.models.tables import LearnedPositions

# One bar at a time: that of the training.
transformers_logging.disable_progress_bar()


class LanguageModel:
    """A transformers network whose head is applied apart from its body, so that no logits of a whole sequence ever exist."""

    block_length: int = 1  # tokens that are encoded together

    def __init__(self, network: PreTrainedModel, word: str) -> None:
        self.network = network
        self.word = word
        self.precision = "fp32"
        self.gradients = GradientSink()  # receives gradients that bypass autograd
        self.attention: Attention = Full()
        self.rotary = RotaryPositions(network)
        self.learned = LearnedPositions(network)
        self._sampled_below: int | None = None  # positions that are given are sampled below it; None: they number the tokens
        self.position: Position = Unchanged()
        self.slopes: tuple[float, ...] | None = None  # what a token of distance takes off the scores of each head; None: nothing
        self._lengths = (0, 0)  # original and present one, of a position that was set
        self.mask_token: int | None = None  # that stands for what is hidden; None: the tokenizer has none

    # -- what it has -------------------------------------------------------------------------------------------------

    @property
    def original_length(self) -> int:
        """Tokens that the positions reach to as the network stands."""
        config = self.network.config
        if not hasattr(config, "max_position_embeddings"):
            rule = f"is a {config.model_type}, whose configuration does not say how long it was trained"
            raise ConfigError("model.source", config.name_or_path, rule, "name a checkpoint with max_position_embeddings")
        return int(config.max_position_embeddings) - self.learned.first

    @property
    def has(self) -> frozenset[str]:
        """What a strategy or a memory plan can build on."""
        positions = {"rotary", "computed_positions"} if self.rotary else {"learned_positions"} if self.learned else set()
        if self.slopes is not None:
            positions = {"computed_positions"}
        causal = all(getattr(module, "is_causal", True) for module in self.network.modules())
        return frozenset({"regions", *positions, *(("causal",) if causal else ("bidirectional", "masked"))})

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    # -- computing ---------------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 computes matrix products in bfloat16; weights, angles and sums stay in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def layout(self, inputs: Int[Tensor, "batch length"], positions: Int[Tensor, "batch length"] | None) -> Layout:
        """Who sees whom in these sequences. Positions that restart within a row part it into documents that do not see each other."""
        frequencies = None
        if self.attention.rotates:
            self.reads(inputs.shape[1], positions)
            frequencies = self.rotary.frequencies.clone()
        slopes = None if self.slopes is None else torch.tensor(self.slopes, dtype=torch.float64, device=self.device)
        return Layout.of(self.attention, tuple(inputs.shape), positions, frequencies, slopes)

    def reads(self, length: int, positions: Int[Tensor, "batch length"] | None = None) -> None:
        """Makes ready for texts of `length` tokens what depends on that; `hidden` does so by itself, a call of the network does not."""
        self.rotary.read(length if positions is None or self._sampled_below is None else self._sampled_below)

    def hidden(
        self,
        inputs: Int[Tensor, "batch chunk"],
        positions: Int[Tensor, "batch length"] | None = None,
        layout: Layout | None = None,
        context: Int[Tensor, "batch context"] | None = None,
    ) -> Float[Tensor, "batch chunk dim"]:
        """Last hidden states of whole sequences, or of the chunk of them that the layout names. Positions are those of the sequences.

        Only an autoencoder has a context to encode.
        """
        assert context is None  # objectives are checked
        given = self._given(inputs, positions, self.layout(inputs, positions) if layout is None else layout)
        with self.autocast():
            return self.network.base_model(input_ids=inputs, use_cache=False, **given).last_hidden_state

    def _given(self, inputs: Int[Tensor, "batch chunk"], positions: Int[Tensor, "batch length"] | None, layout: Layout) -> dict[str, Any]:
        """What the network is told beside its tokens."""
        # Those of the whole text, also for a chunk of it.
        self.reads(layout.length, positions)
        start, stop = layout.chunk
        if self.attention.rotates or self.slopes is not None:
            # At position 0 the model's own rotation is none: the regions turn queries and keys themselves, or slopes are all there is.
            positions = torch.zeros_like(inputs)
        elif positions is not None:
            positions = positions[:, start:stop]
        elif start or self.learned.first:
            positions = torch.arange(start, stop, device=inputs.device).expand_as(inputs)
        if positions is not None:
            positions = positions + self.learned.first
        # Left to transformers and torch, and their compiler, where they compute the same.
        known = {} if layout.is_plain and layout.kept is None else {"layout": layout}
        return {"position_ids": positions, **known}

    def before_head(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch width"]:
        """What the matrix of the head is given: the last hidden states themselves in a causal network."""
        with self.autocast():
            for step in transform_of(self.network):
                states = step(states)
        return states

    @cached_property
    def meets_in_attention(self) -> bool:
        """Whether tokens meet nowhere but in the attention: a short text has the same hidden states in two chunks as in one."""
        length = min(24, self.original_length)
        tokens = torch.arange(1, length + 1, device=self.device)[None] % self.network.config.vocab_size
        layout, kept = self.layout(tokens, None), Kept(past={})
        with self.probed():
            whole = self.hidden(tokens, None)
            halves = [
                self.hidden(tokens[:, slice(*chunk)], None, layout.at(chunk, kept)) for chunk in ((0, length // 2), (length // 2, length))
            ]
        return torch.allclose(torch.cat(halves, dim=1), whole, rtol=1e-3, atol=1e-3)

    @property
    def head(self) -> tuple[Float[Tensor, "vocab dim"], Float[Tensor, " vocab"] | None]:
        layer = self.network.get_output_embeddings()
        return layer.weight, layer.bias

    def check_head(self) -> None:
        """Raises `ConfigError` if the network does more to its logits than its head: our losses would not be its own."""
        config = self.network.config
        if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
            rule = f"is a {config.model_type}, some of whose layers see chunks, which attention in regions does not compute"
            raise ConfigError("model.source", config.name_or_path, rule, "name a checkpoint of another architecture")
        # Past the token of padding, which RoBERTa and its kin do not count.
        tokens = (torch.arange(1, 9, device=self.device)[None] + (getattr(config, "pad_token_id", None) or 0)) % config.vocab_size
        try:
            with self.probed():
                ours = nn.functional.linear(self.before_head(self.hidden(tokens)), *self.head)
                theirs = self.network(input_ids=tokens, use_cache=False, **self._given(tokens, None, self.layout(tokens, None))).logits
        except ValueError as fault:  # told by context/attention/interface.py
            rule = f"is a {config.model_type}: {fault}"
            raise ConfigError("model.source", config.name_or_path, rule, "name a checkpoint of another architecture") from fault
        if not torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3):
            rule = f"is a {self.network.config.model_type}, which changes its logits after the head"
            raise ConfigError("model.source", self.network.config.name_or_path, rule, "name a checkpoint whose head is one matrix")

    @contextmanager
    def probed(self) -> Iterator[None]:
        """For comparing two ways to compute the same: without gradient and dropout, in float32 whatever the precision."""
        precision, training = self.precision, self.network.training
        self.precision = "fp32"
        self.network.eval()
        with torch.no_grad():
            yield
        self.precision = precision
        self.network.train(training)

    def compile(self) -> None:
        """Layer by layer, which costs seconds where the whole network costs minutes."""
        for module in self.network.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    layer.compile()

    # -- positions ---------------------------------------------------------------------------------------------------

    def check(self, strategy: Strategy, original_length: int) -> None:
        """Raises `ConfigError` where the network cannot take the strategy."""
        strategy.check(self.has, original_length, self.word)
        for attention in (strategy.attention, strategy.measured_attention):
            self._check_attention(attention)
        if "rotary" in strategy.position.removes and knows_distances(self):
            rule = f"cannot act on a {self.network.config.model_type}, whose own positions cannot be switched off"
            raise ConfigError("context/position", strategy.position.word, rule, "name a checkpoint of another architecture")
        if (word := strategy.position.word) == "none" or not self.rotary:
            return
        if fault := self.rotary.unlike_plain():
            rule = f"cannot act on a {self.network.config.model_type} {fault}"
            raise ConfigError("context/position", word, rule, "use context=none, or start from the checkpoint before its extension")
        strategy.position.check(self.rotary.rotary(original_length), strategy.target_length / original_length)

    def extend(self, strategy: Strategy, original_length: int, length: int) -> dict[str, Any]:
        """Sets the strategy's positions for sequences of `length` tokens and proves that they are on.

        Returns the proof: rope_parameters, frequencies and attention factor, and how far the built ones are from the closed form;
        and how far the attention is from its definition. May be called again for another length.
        """
        self.check(strategy, original_length)
        self._sampled_below = None if strategy.sampling is None else length
        proof = self.place(strategy.position, original_length, length)
        return proof | {"attention": self.attend(strategy.attention, original_length, length)}

    def place(self, position: Position, original_length: int, length: int) -> dict[str, Any]:
        """Sets positions alone, and returns their proof."""
        if not self.position.is_plain and position.word == "none":
            # What was set when the checkpoint was opened is what it was trained with.
            position = self.position
        self.position, self._lengths = position, (original_length, length)
        return position.act(self, original_length, length)

    def attend(self, attention: Attention, original_length: int, length: int) -> dict[str, Any]:
        """Sets who sees whom, for sequences of `length` tokens, and proves it. Weights and positions stay as they are."""
        self.attention = attention.for_length(length, original_length)
        config = self.network.config
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        layout = self.layout(torch.zeros(1, length, dtype=torch.long), None)
        return prove(layout, heads, kv_heads, head_dim(config), "causal" in self.has, self.device)

    def set_frequencies(self, scaling: Scaling, original_length: int, length: int) -> dict[str, Any]:
        return self.rotary.set(scaling, original_length, length) if self.rotary else {}

    def set_table(self, table: Table, original_length: int, length: int) -> dict[str, Any]:
        return self.learned.set(table, original_length, length)

    def set_slopes(self, slopes: Callable[[int], Float[np.ndarray, " heads"]], original_length: int, length: int) -> dict[str, Any]:
        config = self.network.config
        self.slopes = tuple(slopes(config.num_attention_heads).tolist())
        if self.learned:
            self.learned.switch_off(length)
        elif self.rotary:
            config.max_position_embeddings = length
        return {"position": self.position.word, "slopes": list(self.slopes)}

    def last_position(self, wanted: int) -> int:
        """The number of the last token of a text that has a position, at most the one that is wanted."""
        return min(wanted, self.learned.length - 1) if self.learned and self.slopes is None else wanted

    def _check_attention(self, attention: Attention) -> None:
        architecture = self.network.config.model_type
        windows = windows_of(self)
        if not windows:
            rule = f"cannot act on a {architecture}, whose attention does not go through the interface of transformers"
            raise ConfigError("context/attention", attention.word, rule, "name a checkpoint of another architecture")
        if attention.narrowed(1) is None and windows != {None}:
            rule = f"cannot act on a {architecture}, whose layers have windows of their own"
            raise ConfigError("context/attention", attention.word, rule, "use context/attention=full or window")
        if attention.rotates and not turns_as_we_do(self):
            rule = f"cannot act on a {architecture}, which does not rotate the two halves of a head alike in all layers"
            raise ConfigError("context/attention", attention.word, rule, "use context/attention=window")

    # -- weights -----------------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def save(self, folder: Path) -> None:
        """A transformers folder that `from_pretrained` opens without this project; what it would open wrongly only this project opens."""
        if self.position.is_plain:
            self.network.save_pretrained(folder, safe_serialization=True)
        else:
            own_format.save(self.network, self.position, *self._lengths, folder)
