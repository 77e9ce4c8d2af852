"""Keeps layer inputs and recomputes the rest in the backward pass (Chen et al. 2016, arXiv:1604.06174).

Works for every model, bidirectional ones included. Attention outputs are kept if they fit, because
attention dominates the cost of long sequences. The MLP runs in pieces, and logits of a whole sequence
never exist (objectives/cross_entropy.py).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from elongate.errors import require
from elongate.memory.memory import Plan, size_on, sum_of
from elongate.memory.recomputation import check_recomputation, enable_recomputation, layers_of, recomputed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example

_MLP_CHUNK = 2048, 16384  # tokens, on a CPU and on a GPU
_MLP_OFFLOADED = 4096  # tokens, where memory matters most


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Plan):
    """Recomputes each layer in the backward pass."""

    micro_batch_tokens: int = 4096  # tokens in one forward and backward, rounded to whole sequences, at least one
    keep_attention: bool = True  # attention outputs, as many bytes as the layer inputs; false: recomputed
    mlp_chunk_length: int | None = None  # tokens in the MLP at a time, at least 1; null: 2048, on a GPU 16384 (4096 with offload)
    keep_layers: int = 0  # last layers that keep all activations and are not recomputed
    offload: str = "none"  # where layer inputs are kept: none (on the device) or host (in pinned memory of the host, for a GPU)

    word: ClassVar[str] = "checkpoint"
    can_compile: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, usual in (("micro_batch_tokens", "4096"), ("mlp_chunk_length", "null")):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be at least 1", f"use {{key}}={usual}")
        require(self.keep_layers >= 0, "keep_layers", self.keep_layers, "must be at least 0", "use {key}=0")
        require(self.offload in ("none", "host"), "offload", self.offload, "must be none or host", "use {key}=none")
        rule = f"keeps layer inputs only, and memory.keep_layers={self.keep_layers} keeps more"
        require(self.offload == "none" or not self.keep_layers, "offload", self.offload, rule, "use {key}=none or memory.keep_layers=0")

    @property
    def pass_tokens(self) -> int:
        return self.micro_batch_tokens

    @property
    def fixed_tokens(self) -> int:
        return self.mlp_chunk_length or size_on(None, *_MLP_CHUNK)

    def variants(self) -> Iterator[Plan]:
        yield replace(self, keep_attention=True)
        yield replace(self, keep_attention=False)

    def check_model(self, model: LanguageModel) -> None:
        check_recomputation(model, self.word)

    def check_length(self, model: LanguageModel, length: int) -> None:
        if self.offload == "host":
            from elongate.memory.offload import check_host

            check_host(model, self.rows(length) * length)

    def sizes(self, device: str) -> Iterator[Plan]:
        yield self
        if device == "cuda" and not self.keep_layers:
            yield replace(self, offload="host")

    @property
    def can_keep_layers(self) -> bool:
        """Whether `keep_layers`, which is 0, can be raised for speed."""
        return self.keep_attention and self.offload == "none" and self.keep_layers == 0

    def prepare(self, model: LanguageModel, length: int) -> Self:
        from elongate.memory.pieces import apply_in_pieces

        super().prepare(model, length)
        enable_recomputation(model.network)
        usual = _MLP_OFFLOADED if self.offload == "host" else size_on(model.device.type, *_MLP_CHUNK)
        size = self.mlp_chunk_length or usual
        layers: list[Any] = layers_of(model.network)
        recomputed_layers = len(layers) - self.keep_layers
        rule, remedy = f"must be at most the number of layers, {len(layers)}", f"use {{key}}={len(layers)}"
        require(recomputed_layers >= 0, "memory.keep_layers", self.keep_layers, rule, remedy)
        for layer in layers[recomputed_layers:]:
            layer.gradient_checkpointing = False
        for layer in layers[:recomputed_layers]:
            if hasattr(layer, "mlp"):
                layer.mlp.forward = partial(apply_in_pieces, layer.mlp.forward, size)
        for layer in layers:
            layer.register_forward_hook(_forget_rounded_weights)
        return self

    def backward(self, model: LanguageModel, example: Example) -> float:
        from elongate.context.attention.kernel.kv_store import KeyValueStore
        from elongate.memory.offload import offloaded
        from elongate.objectives.loss import summed_loss

        # Divide by the count of the whole batch: a mean of means would weight tokens unequally.
        count = example.weight / example.share
        losses = []
        for part in example.parts(self.rows(example.length)):
            layout = model.layout(part.inputs, part.positions)
            store = KeyValueStore(outputs={}) if self.keep_attention else None
            # The encoder of an autoencoder looks its tokens up again in the backward pass.
            with recomputed(model.network, store), model.gradients.embedding(model.network.get_input_embeddings()):
                with offloaded(model.device) if self.offload == "host" else nullcontext():
                    hidden = model.hidden(part.inputs, part.positions, layout.for_chunk(layout.chunk, store), part.context)
                loss = summed_loss(model, hidden, part, model.gradients.scaled(1 / count)) / count
                del hidden  # otherwise the states of the last layer live until the end of the backward pass
                loss.backward()
            losses.append(loss.detach())
        return sum_of(losses)


def _forget_rounded_weights(*_: Any) -> None:
    """Free the weights that autocast rounded to bfloat16: it would keep those of all layers until the pass ends."""
    import torch

    torch.clear_autocast_cache()
