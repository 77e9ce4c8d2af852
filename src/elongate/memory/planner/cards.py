"""Cards that `plan.device` names: plans for a card that is not in this machine.

Sizes and rates are from the vendor's data sheets, without sparsity: NVIDIA H100 Tensor Core GPU data sheet (2023, SXM),
NVIDIA H200 Tensor Core GPU data sheet (2024, SXM), NVIDIA A100 Tensor Core GPU data sheet (2021, SXM), NVIDIA Ada GPU
architecture whitepaper (2022, appendix A, bfloat16 with accumulation in float32). The shares that a step reaches are
assumptions: they are from one H100, on which products of 32,768 tokens reached 0.75 to 0.88 of the peak, and fused
attention 0.28 to 0.45.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elongate.memory.planner.dry_run import Call, Work

_CONTEXT = 1 << 30  # bytes that CUDA and its libraries take
_PRODUCTS, _ATTENTION, _BANDWIDTH = 0.75, 0.4, 0.8  # assumed shares of the peak rates
_LAUNCH = 8e-6  # seconds of the processor per operator, which run while the card computes: an assumption


@dataclass(frozen=True)
class Card:
    """A card according to its data sheet."""

    word: str
    capability: tuple[int, int]  # CUDA compute capability
    memory: float  # GiB
    half: float  # FLOPs per second of matrix products in bfloat16
    single: float  # FLOPs per second in float32, outside of the tensor cores as torch computes by default
    bandwidth: float  # bytes per second

    @property
    def free_bytes(self) -> int:
        """Return the bytes that are free for a process."""
        return round(self.memory * 2**30) - _CONTEXT

    def seconds_of(self, work: Work) -> float:
        """Return the estimated seconds of a step with this work: of the card or of the processor that starts its operators."""
        computed = sum(flops / self._rate(call) for call, flops in work.flops.items())
        return max(computed + work.moved / (_BANDWIDTH * self.bandwidth), work.calls * _LAUNCH)

    def _rate(self, call: Call) -> float:
        """Return FLOPs per second of an operator: its arithmetic or its memory limits it."""
        from elongate.memory.planner.throughput import flops_of_call

        shapes = list(_shapes((call.arguments, call.keywords)))
        peak = self.half if any(shape.dtype.itemsize == 2 for shape in shapes) else self.single
        share = _ATTENTION if "attention" in str(call.function) else _PRODUCTS
        read = sum(prod(shape.sizes) * shape.dtype.itemsize for shape in shapes)
        flops = flops_of_call(call)
        return flops / max(flops / (share * peak), read / (_BANDWIDTH * self.bandwidth))


CARDS = {
    card.word: card
    for card in (
        Card("h100", (9, 0), 79.6, 989.4e12, 66.9e12, 3.35e12),
        Card("h200", (9, 0), 140.4, 989.4e12, 66.9e12, 4.8e12),
        Card("a100-80gb", (8, 0), 79.3, 312e12, 19.5e12, 2.039e12),
        Card("a100-40gb", (8, 0), 39.5, 312e12, 19.5e12, 1.555e12),
        Card("rtx4090", (8, 9), 23.9, 165.2e12, 82.6e12, 1.008e12),
    )
}


def _shapes(value: Any) -> Any:
    if isinstance(value, tuple):
        for element in value:
            yield from _shapes(element)
    elif hasattr(value, "sizes"):
        yield value
