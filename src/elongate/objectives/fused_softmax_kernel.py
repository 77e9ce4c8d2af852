"""The Triton kernel of fused_softmax.py: one program per row of logits."""

# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def softmax_kernel(logits, targets, factors, losses, stride, vocab, block: tl.constexpr):
    """Write the weighted loss of each row, and its gradient over the row's logits."""
    row = tl.program_id(0).to(tl.int64)
    first = logits + row * stride
    target, factor = tl.load(targets + row), tl.load(factors + row)
    scored = tl.load(first + target).to(tl.float32)
    highest, total = float("-inf"), 0.0
    for start in range(0, vocab, block):
        columns = start + tl.arange(0, block)
        values = tl.load(first + columns, mask=columns < vocab, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(values))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(values - higher))
        highest = higher
    tl.store(losses + row, (tl.log(total) + highest - scored) * factor)
    tl.debug_barrier()  # every thread has read `scored`
    for start in range(0, vocab, block):
        columns = start + tl.arange(0, block)
        inside = columns < vocab
        values = tl.load(first + columns, mask=inside, other=float("-inf")).to(tl.float32)
        shares = tl.exp(values - highest) / total
        gradient = tl.where(columns == target, shares - 1, shares) * factor
        tl.store(first + columns, gradient.to(logits.dtype.element_ty), mask=inside)
