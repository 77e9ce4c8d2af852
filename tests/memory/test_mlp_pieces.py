"""An MLP that is applied to a few tokens at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from elongate.memory.checkpoint import _apply_in_pieces


def routed(states: Tensor, router: Tensor | None) -> tuple[Tensor, Tensor]:
    """What ZAYA's experts do: add what the router of the layer before returned, which the first layer does not have."""
    scores = states.sin() if router is None else states.sin() + router
    return states * scores, scores


def test_an_mlp_takes_what_the_first_layer_does_not_have() -> None:
    states = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for router in (None, states.cos()):
        whole, pieces = routed(states, router), _apply_in_pieces(routed, 3, states, router)
        assert_close(pieces, whole)
        gradients = [torch.autograd.grad(outputs[0].square().sum(), states, retain_graph=True) for outputs in (pieces, whole)]
        assert_close(*gradients)
