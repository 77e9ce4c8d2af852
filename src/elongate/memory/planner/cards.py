"""Cards that `plan.device` names: plans for a card that is not in this machine.

Sizes and rates are from the vendor's data sheets, without sparsity: NVIDIA H100 Tensor Core GPU data sheet (2023, SXM),
NVIDIA H200 Tensor Core GPU data sheet (2024, SXM), NVIDIA A100 Tensor Core GPU data sheet (2021, SXM), NVIDIA Ada GPU
architecture whitepaper (2022, appendix A, bfloat16 with accumulation in float32). The shares that a step reaches are
assumptions: products of 32,768 tokens reached 0.75 to 0.88 of the peak of one H100, and cuDNN's attention 0.44 to 0.49;
FlashAttention-2 reaches 0.50 to 0.73 of that of an A100 (Dao 2023, arXiv:2307.08691, section 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from elongate import hardware

if TYPE_CHECKING:
    from elongate.memory.planner.dry_run import Call, Work

_CONTEXT = 1 << 30  # bytes that CUDA and its libraries take
_PRODUCTS, _BANDWIDTH = 0.75, 0.8  # assumed shares of the peak rates
_ATTENTION = {8: 0.55, 9: 0.45}  # the same, by the first number of the capability
_LAUNCH = 8e-6  # seconds of the processor per operator, which run while the card computes: an assumption


@dataclass(frozen=True)
class Card:
    """A card according to its data sheet."""

    word: str
    capability: tuple[int, int]  # CUDA compute capability
    memory: float  # GiB that CUDA reports
    single: float  # FLOPs per second in float32, outside of the tensor cores as torch computes by default
    sheet: hardware.Card

    @property
    def free_bytes(self) -> int:
        """Return the bytes that are free for a process."""
        return round(self.memory * 2**30) - _CONTEXT

    def seconds_of(self, work: Work) -> float:
        """Return the estimated seconds of a step with this work: of the card or of the processor that starts its operators."""
        computed = sum(flops / self._rate(call) for call, flops in work.flops.items())
        return max(computed + work.moved / (_BANDWIDTH * self.sheet.bandwidth), work.calls * _LAUNCH)

    def _rate(self, call: Call) -> float:
        """Return FLOPs per second of an operator: its arithmetic or its memory limits it."""
        from elongate.memory.planner.throughput import flops_of_call

        shapes = list(_shapes((call.arguments, call.keywords)))
        peak = self.sheet.flops if any(shape.dtype.itemsize == 2 for shape in shapes) else self.single
        share = _ATTENTION[self.capability[0]] if "attention" in str(call.function) else _PRODUCTS
        read = sum(prod(shape.sizes) * shape.dtype.itemsize for shape in shapes)
        flops = flops_of_call(call)
        return flops / max(flops / (share * peak), read / (_BANDWIDTH * self.sheet.bandwidth))


CARDS = {
    card.word: card
    for card in (
        Card("h100", (9, 0), 79.6, 66.9e12, hardware.CARDS["H100"]),
        Card("h200", (9, 0), 140.4, 66.9e12, hardware.CARDS["H200"]),
        Card("a100-80gb", (8, 0), 79.3, 19.5e12, hardware.CARDS["A100"]),
        Card("a100-40gb", (8, 0), 39.5, 19.5e12, hardware.CARDS["A100-SXM4-40GB"]),
        Card("rtx4090", (8, 9), 23.9, 82.6e12, hardware.CARDS["RTX 4090"]),
    )
}


def _shapes(value: Any) -> Any:
    if isinstance(value, tuple):
        for element in value:
            yield from _shapes(element)
    elif hasattr(value, "sizes"):
        yield value
