"""The bidirectional autoencoder with the operations that training and evaluation need."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from elongate.context.attention.kernel.layout import Layout
from elongate.models.language_model import LanguageModel


class Autoencoder(LanguageModel):
    """Without a context, `hidden` encodes and reconstructs the inputs; with one, it encodes that and continues it.

    The inputs that continue a context begin with its last token, from which the first new token is
    predicted. Positions are those of the whole text: of the inputs, or of the context and of all
    inputs but the first.
    """

    def __init__(self, network: PreTrainedModel, word: str) -> None:
        super().__init__(network, word)
        # How much is decoded follows from this length; an extension changes the one in the configuration.
        self._original_length = super().original_length

    @property
    def original_length(self) -> int:
        return self._original_length

    @property
    def has(self) -> frozenset[str]:
        # Its attention has a pattern of its own, so it takes no other ("regions").
        return super().has - {"regions", "masked"} | {"autoencoder"}

    @property
    def block_length(self) -> int:  # type: ignore[override]  # stored in the network here, the same for all others
        return self.network.config.block_length

    def layout(self, inputs: Int[Tensor, "batch length"], positions: Int[Tensor, "batch text"] | None) -> Layout:
        """Return where memory plans store outputs. The network itself decides which tokens see which."""
        return super().layout(inputs, None)

    def hidden(
        self,
        inputs: Int[Tensor, "batch length"],
        positions: Int[Tensor, "batch text"] | None = None,
        layout: Layout | None = None,
        context: Int[Tensor, "batch context"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        kept = None if layout is None else layout.kept
        self.set_text_length(inputs.shape[1] + (0 if context is None else context.shape[1] - 1), positions)
        with self.autocast():
            return self.network.base_model(inputs, context, positions, kept=kept).last_hidden_state

    def continued(self, tokens: Int[Tensor, "batch length"], size: int) -> Float[Tensor, "batch scored dim"]:
        """Return the states that predict all tokens but the first `size`, which must be whole blocks.

        The text is encoded once. It is decoded in segments of `size` tokens, each from the blocks
        before it and itself.
        """
        model, length = self.network.base_model, tokens.shape[1]
        self.set_text_length(length)
        starts = range(size, length, size)
        with self.autocast():
            encoded = model.encode(tokens[:, : starts[-1]])
            per_block = encoded[0].shape[1] // (starts[-1] // self.block_length)
            segments = tuple((min(size, length - start), start // self.block_length * per_block) for start in starts)
            hidden = model.encoder.embed_tokens(tokens[:, size - 1 : -1])
            positions = torch.arange(size - 1, length - 1, device=tokens.device)[None]
            return model.decode(hidden, positions, encoded, segments, causal=True)

    def last_position(self, wanted: int) -> int:
        """Return `wanted`: the encoder's table of positions, if it has one, counts within a block."""
        return wanted
