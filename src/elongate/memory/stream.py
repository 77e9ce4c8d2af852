"""Exact training on sequences of any length, chunk by chunk, through stored keys and values.

A first pass without gradient stores the keys and values of every layer. Then the chunks are recomputed from
last to first, with gradient: each attends to the stored keys and values, its backward pass adds to the
gradients of those of its past, and its own keys and values receive the gradients that later chunks added.

Only one chunk has activations at a time, and with `recompute` only one layer of it. Keys, values and their gradients
grow with the length; they are kept in memory or in files of the temporary directory (TMPDIR), which are removed after
the step. Sequences up to the length of a chunk are computed as a whole. The gradient is exact, and no code depends on the
architecture: it works for every causal model whose tokens interact only in its attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Self

from elongate.errors import ConfigError, require
from elongate.memory.memory import Plan, size_on, sum_of
from elongate.memory.recomputation import check_recomputation, enable_recomputation, recomputed

if TYPE_CHECKING:
    from torch import Tensor

    from elongate.context.attention.kernel.kv_store import KeyValueStore
    from elongate.context.attention.kernel.layout import Layout
    from elongate.models.language_model import LanguageModel
    from elongate.objectives.objective import Example

# Chunk lengths that are compared, by device: short ones starve a card, and make no operator of a CPU slower.
_CHUNK = 512, 8192  # tokens, on a CPU and on a GPU
_LENGTHS = {"cuda": (2048, 8192)}

Chunk = tuple[int, int]  # its first token and the one after its last


@dataclass(frozen=True, kw_only=True)
class Stream(Plan):
    """Computes one chunk of a sequence at a time."""

    chunk_length: int | None = None  # tokens computed at a time, at least 1; shorter sequences are batched; null: 512, on a GPU 8192
    keep_attention: bool = True  # attention outputs of the first pass, at most the size of keys and values; false: recomputed
    recompute: bool | None = None  # keep only the layer inputs of a chunk and compute each layer again; null: true on a GPU
    on_disk: bool = False  # true: keep keys, values and gradients in files and one layer of them in memory
    detach: bool = False  # true: no gradient into the past (Dai et al. 2019, arXiv:1901.02860), one pass, not exact

    word: ClassVar[str] = "stream"
    splits_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        value = self.chunk_length
        require(value is None or value > 0, "chunk_length", value, "must be at least 1", "use {key}=null")

    @property
    def is_exact(self) -> bool:  # type: ignore[override]  # computed here, constant elsewhere
        return not self.detach

    @property
    def pass_tokens(self) -> int:
        return self.chunk_length or size_on(None, *_CHUNK)

    @property
    def fixed_tokens(self) -> int:
        return self.pass_tokens

    @property
    def is_last_resort(self) -> bool:
        return self.on_disk  # the time of file access is not predicted

    def variants(self) -> Iterator[Plan]:
        yield replace(self, keep_attention=True)
        yield replace(self, keep_attention=False)
        yield replace(self, keep_attention=False, on_disk=True)

    def sizes(self, device: str) -> Iterator[Plan]:
        lengths = _LENGTHS.get(device, ()) if self.chunk_length == Stream.chunk_length else ()
        # Files are so slow that the length of the chunks hardly matters.
        for length in (lengths[:1] if self.on_disk else lengths) or (self.chunk_length,):
            yield replace(self, chunk_length=length)

    def helps(self, length: int) -> bool:
        return self.pass_tokens <= length

    def check_able(self, has: frozenset[str], model: str) -> None:
        if "causal" not in has:
            rule = f"cannot train model={model}: what a token sees on its right is not computed yet when its chunk is"
            raise ConfigError("memory", self.word, rule, "use memory=checkpoint")

    def check_model(self, model: LanguageModel) -> None:
        self.check_able(model.has, model.word)
        if "regions" not in model.has:
            rule = f"cannot train a {model.network.config.model_type}, whose attention does not use the interface of transformers"
            raise ConfigError("memory", self.word, rule, "use memory=checkpoint")
        if not model.meets_in_attention:
            rule = f"cannot train a {model.network.config.model_type}: its tokens interact outside its attention"
            raise ConfigError("memory", self.word, rule, "use memory=checkpoint")

    def prepare(self, model: LanguageModel, length: int) -> Self:
        super().prepare(model, length)
        able = model.network.supports_gradient_checkpointing
        recompute = model.device.type == "cuda" and able if self.recompute is None else self.recompute
        if recompute:
            check_recomputation(model, f"{self.word} memory.recompute=true")
            enable_recomputation(model.network)
        return replace(self, chunk_length=self.chunk_length or size_on(model.device.type, *_CHUNK), recompute=recompute)

    def backward(self, model: LanguageModel, example: Example) -> float:
        assert not example.agreement, "checked with the job"
        # Divide by the count of the whole batch: a mean of means would weight tokens unequally.
        count = example.weight / example.share
        losses = []
        for part in example.parts(self.rows(example.inputs.shape[1])):
            with self._new_store() as store:
                layout = model.layout(part.inputs, part.positions)
                with recomputed(model.network, store) if self.recompute else nullcontext():
                    losses += _Pass(model, part, layout, count, store).run(self)
        return sum_of(losses)

    @contextmanager
    def _new_store(self) -> Iterator[KeyValueStore]:
        from elongate.context.attention.kernel.kv_store import KeyValueStore, KeyValueStoreOnDisk

        outputs: dict[Any, Any] | None = {} if self.keep_attention and not self.detach else None
        if not self.on_disk:
            yield KeyValueStore(past={}, outputs=outputs)
            return
        with TemporaryDirectory(prefix="elongate-") as folder:
            yield KeyValueStoreOnDisk(past={}, outputs=outputs, folder=Path(folder))


@dataclass(frozen=True)
class _Pass:
    """Forward and backward over rows that are streamed together."""

    model: LanguageModel
    part: Example
    layout: Layout
    count: float  # the loss is a sum over tokens divided by this
    store: KeyValueStore

    def run(self, plan: Stream) -> list[Tensor]:
        """Return the losses of the chunks."""
        length = self.part.inputs.shape[1]
        size = plan.pass_tokens
        chunks = [(start, min(start + size, length)) for start in range(0, length, size)]
        if len(chunks) == 1:
            return [self._backward(chunks[0], None)]
        if plan.detach:
            return [self._backward(chunk, self.store) for chunk in chunks]
        return self._run_twice(chunks, bool(plan.recompute))

    def _run_twice(self, chunks: list[Chunk], recompute: bool) -> list[Tensor]:
        import torch

        model = self.model
        # A recomputed chunk must draw the same dropout.
        seeds = torch.randint(2**62, (len(chunks),)).tolist()
        with (
            torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
            model.gradients.embedding(model.network.get_input_embeddings()),
        ):
            # The last chunk needs no first pass: no chunk attends to it but itself.
            self._store_past(chunks[:-1], seeds)
            if recompute and self.store.outputs is None:
                self.store.outputs = {}  # of one chunk at a time, so that its attention is not computed a third time
            # Use one context for all chunks, so the weights are cast to bfloat16 once.
            with model.autocast():
                losses = []
                for seed, chunk in zip(reversed(seeds), reversed(chunks), strict=True):
                    torch.manual_seed(seed)
                    losses.append(self._backward(chunk, self.store))
        return losses

    def _store_past(self, chunks: list[Chunk], seeds: list[int]) -> None:
        """Run the first pass."""
        import torch

        from elongate.context.attention.kernel.kv_store import StopForward

        with torch.no_grad(), self.model.autocast():
            for seed, chunk in zip(seeds, chunks, strict=False):
                torch.manual_seed(seed)
                # The last layer only needs to store keys and values. The first chunk shows which layer is last.
                with suppress(StopForward):
                    self._hidden(chunk, self.store)
                self.store.stop_at_last_layer()
        self.store.last = None

    def _hidden(self, chunk: Chunk, store: KeyValueStore | None) -> Any:
        inputs = self.part.inputs[:, slice(*chunk)]
        return self.model.hidden(inputs, self.part.positions, self.layout.for_chunk(chunk, store))

    def _backward(self, chunk: Chunk, store: KeyValueStore | None) -> Tensor:
        """Run forward and backward over a chunk and return its share of the loss."""
        import torch

        from elongate.objectives.loss import summed_loss

        targets, sink = self.part.tokens(slice(*chunk)), self.model.gradients.scaled(1 / self.count)
        loss = summed_loss(self.model, self._hidden(chunk, store), targets, sink) / self.count
        with torch.autocast(self.model.device.type, enabled=False):
            loss.backward()
        if store is not None:
            store.drop_outputs(chunk)
        return loss.detach()
