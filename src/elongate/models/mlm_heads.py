"""What lies between the body of a network and the matrix of its head: nothing in a causal one, a small transform in a masked one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

Step = str | Callable[[Tensor], Tensor]  # a module of the network by its name, or a function

_TRANSFORMS: tuple[tuple[Step, ...], ...] = (
    ("cls.predictions.transform",),  # BERT and its kin
    ("head",),  # ModernBERT
    ("generator_predictions",),  # the generator of ELECTRA
    ("lm_head.dense", F.gelu, "lm_head.layer_norm"),  # RoBERTa and its kin
    ("vocab_transform", F.gelu, "vocab_layer_norm"),  # DistilBERT
)


def transform_of(network: PreTrainedModel) -> Iterator[Callable[[Tensor], Tensor]]:
    """What is applied to last hidden states, one after the other, before the matrix of the head."""
    modules = dict(network.named_modules())
    for steps in _TRANSFORMS:
        if all(step in modules for step in steps if isinstance(step, str)):
            yield from (modules[step] if isinstance(step, str) else step for step in steps)
            return
