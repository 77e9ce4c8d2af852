"""The bidirectional autoencoder as training and evaluation ask it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from elongate.context.attention.attention import Attention
from elongate.context.attention.kernel.layout import Layout
from elongate.models.bidirectional_autoencoder import HAS
from elongate.models.language_model import LanguageModel


class Autoencoder(LanguageModel):
    """Without a context, `hidden` encodes the inputs and reconstructs them; with one, it encodes that and continues it.

    The inputs that continue a context begin with its last token, which the first token after it is told from. Positions are those of
    the whole text: the inputs' own, or those of the context and of all inputs but the first.
    """

    def __init__(self, network: PreTrainedModel, word: str) -> None:
        super().__init__(network, word)
        # An extension changes the configuration; how much is decoded does not change with it.
        self._original_length = super().original_length

    @property
    def original_length(self) -> int:
        return self._original_length

    @property
    def has(self) -> frozenset[str]:
        return HAS

    @property
    def block_length(self) -> int:  # type: ignore[override]  # known from the network here, the same for all others
        return self.network.config.block_length

    def layout(self, inputs: Int[Tensor, "batch length"], positions: Int[Tensor, "batch text"] | None) -> Layout:
        """Holds what memory keeps. Who sees whom follows from what is encoded and decoded, and no document is apart from others."""
        return super().layout(inputs, None)

    def hidden(
        self,
        inputs: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch text"] | None = None,
        layout: Layout | None = None,
        context: Int[Tensor, "batch context"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        kept = None if layout is None else layout.store
        self.reads(inputs.shape[1] + (0 if context is None else context.shape[1] - 1), positions)
        with self.autocast():
            return self.network.base_model(inputs, context, positions, kept=kept).last_hidden_state

    def continued(self, tokens: Int[Tensor, "batch length"], size: int) -> Float[Tensor, "batch scored dim"]:
        """The states that tell every token but the first `size`, a whole number of blocks.

        The text is encoded once. It is decoded in stretches of `size` tokens, each from the blocks before it and itself.
        """
        model, length = self.network.base_model, tokens.shape[1]
        self.reads(length)
        starts = range(size, length, size)
        with self.autocast():
            encoded = model.encode(tokens[:, : starts[-1]])
            per_block = encoded[0].shape[1] // (starts[-1] // self.block_length)
            stretches = tuple((min(size, length - start), start // self.block_length * per_block) for start in starts)
            hidden = model.encoder.embed_tokens(tokens[:, size - 1 : -1])
            positions = torch.arange(size - 1, length - 1, device=tokens.device)[None]
            return model.decode(hidden, positions, encoded, stretches, causal=True)

    def last_position(self, wanted: int) -> int:
        """A table of positions, where the encoder has one, counts within a block."""
        return wanted

    def check_head(self) -> None:
        """Its head is one matrix, since the network is our own."""

    def _check_attention(self, attention: Attention) -> None:
        """Whatever needs attention in regions has been refused already."""
