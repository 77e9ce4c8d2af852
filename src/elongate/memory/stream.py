"""Exact training on sequences of any length, chunk by chunk, through stored keys and values.

A first pass without gradient stores the keys and values of every layer. Then the chunks are recomputed from last to first, with gradient:
each attends to the stored keys and values, its backward pass adds to the gradients of those of its past, and its own keys and values
receive the gradients that later chunks added. Only one chunk has activations at a time. Keys, values and their gradients grow with the
length; they are kept in memory or in files of the temporary directory (TMPDIR), which are removed after the step.
There is no approximation and no code per architecture: it works for every causal model whose tokens interact only in its attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from elongate.errors import ConfigError, require
from elongate.memory.memory import Memory

if TYPE_CHECKING:
    from elongate.context.attention.kernel.kv_store import Kept
    from elongate.context.attention.kernel.layout import Layout
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example


@dataclass(frozen=True, kw_only=True)
class Stream(Memory):
    chunk_length: int = 512  # tokens with activations at a time, at least 1; shorter sequences are batched
    keep_attention: bool = True  # attention outputs of the first pass, at most the size of keys and values; false: recomputed
    on_disk: bool = False  # true: keep keys, values and gradients in files and one layer of them in memory
    detach: bool = False  # true: no gradient into the past (Dai et al. 2019, arXiv:1901.02860), one pass, not exact

    word: ClassVar[str] = "stream"

    def __post_init__(self) -> None:
        require(self.chunk_length > 0, "chunk_length", self.chunk_length, "must be at least 1", "use {key}=512")

    @property
    def is_exact(self) -> bool:  # type: ignore[override]  # derived here, given elsewhere
        return not self.detach

    def helps(self, length: int) -> bool:
        """False for a sequence that is shorter than a chunk: it is computed as a whole."""
        return self.chunk_length <= length

    @property
    def tokens_at_once(self) -> int:
        return self.chunk_length

    def check_able(self, has: frozenset[str], model: str) -> None:
        if "causal" not in has:
            rule = f"cannot train model={model}: what a token sees on its right is not computed yet when its chunk is"
            raise ConfigError("memory", self.word, rule, "use memory=checkpoint")

    def check_model(self, model: LanguageModel) -> None:
        self.check_able(model.has, model.word)
        if not model.meets_in_attention:
            rule = f"cannot train a {model.network.config.model_type}: its tokens meet elsewhere than in its attention"
            raise ConfigError("memory", self.word, rule, "use memory=checkpoint")

    def backward(self, model: LanguageModel, example: Example) -> float:
        assert not example.agreement, "checked with the job"
        # Divide by the count of the whole batch: a mean of the parts' means would weight their tokens unequally.
        count = example.weight / example.share
        return sum(self._rows(model, part, count) for part in example.parts(self.rows(example.inputs.shape[1])))

    def _rows(self, model: LanguageModel, part: Example, count: float) -> float:
        """Runs forward and backward over rows that are streamed together."""
        with self._kept() as kept:
            return self._streamed(model, part, count, kept)

    @contextmanager
    def _kept(self) -> Iterator[Kept]:
        from elongate.context.attention.kernel.kv_store import Kept, KeptOnDisk

        outputs: dict[Any, Any] | None = {} if self.keep_attention and not self.detach else None
        if not self.on_disk:
            yield Kept(past={}, outputs=outputs)
            return
        with TemporaryDirectory(prefix="elongate-") as folder:
            yield KeptOnDisk(past={}, outputs=outputs, folder=Path(folder))

    def _streamed(self, model: LanguageModel, part: Example, count: float, kept: Kept) -> float:
        import torch

        from elongate.context.attention.kernel.kv_store import EnoughError
        from elongate.memory.embedding import sparse_gradient

        length = part.inputs.shape[1]
        layout = model.layout(part.inputs, part.positions)
        chunks = [(start, min(start + self.chunk_length, length)) for start in range(0, length, self.chunk_length)]
        if self.detach or len(chunks) == 1:
            return sum(self._chunk(model, part, layout, chunk, kept if len(chunks) > 1 else None, count) for chunk in chunks)
        # A recomputed chunk must draw the same dropout.
        seeds = torch.randint(2**62, (len(chunks),)).tolist()
        with (
            torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
            sparse_gradient(model.network.get_input_embeddings()),
        ):
            with torch.no_grad(), model.autocast():
                for seed, chunk in zip(seeds, chunks[:-1], strict=False):
                    torch.manual_seed(seed)
                    # The last layer only needs to store keys and values. The first chunk shows which layer is last.
                    with suppress(EnoughError):
                        model.hidden(part.inputs[:, slice(*chunk)], part.positions, layout.at(chunk, kept))
                    kept.end_at_last_layer()
            kept.last, total = None, 0.0
            # Use one context for all chunks, so the weights are cast to bfloat16 once.
            with model.autocast():
                for seed, chunk in zip(reversed(seeds), reversed(chunks), strict=True):
                    torch.manual_seed(seed)
                    total += self._chunk(model, part, layout, chunk, kept, count)
        return total

    def _chunk(self, model: LanguageModel, part: Example, layout: Layout, chunk: tuple[int, int], kept: Kept | None, count: float) -> float:
        import torch

        from elongate.objectives.loss import summed_loss

        at = slice(*chunk)
        hidden = model.hidden(part.inputs[:, at], part.positions, layout.at(chunk, kept))
        loss = summed_loss(model, hidden, part.tokens(at), head_scale=1 / count) / count
        with torch.autocast(model.device.type, enabled=False):
            loss.backward()
        if kept is not None:
            kept.forget_outputs(chunk)
        return loss.item()
