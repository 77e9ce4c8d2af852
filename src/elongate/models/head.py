"""The head of a network, apart from its body: a matrix and, in masked models, a small transform before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

HeadWeights = tuple[Float[Tensor, "vocab dim"], Float[Tensor, " vocab"] | None]  # matrix and bias
Step = str | Callable[[Tensor], Tensor]  # the name of a module of the network, or a function

_TRANSFORMS: tuple[tuple[Step, ...], ...] = (
    ("cls.predictions.transform",),  # BERT and models derived from it
    ("head",),  # ModernBERT
    ("generator_predictions",),  # the generator of ELECTRA
    ("lm_head.dense", F.gelu, "lm_head.layer_norm"),  # RoBERTa-style models
    ("vocab_transform", F.gelu, "vocab_layer_norm"),  # DistilBERT
)


def head_weights(network: PreTrainedModel) -> HeadWeights:
    """Return the matrix and the bias that map states to logits."""
    layer = network.get_output_embeddings()
    return layer.weight, layer.bias


def head_transform(network: PreTrainedModel) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the steps between the last hidden states and the matrix of the head. Causal networks have none."""
    modules = dict(network.named_modules())
    for steps in _TRANSFORMS:
        if all(step in modules for step in steps if isinstance(step, str)):
            yield from (modules[step] if isinstance(step, str) else step for step in steps)
            return
