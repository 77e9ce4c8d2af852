"""An MLP that is applied to a few tokens at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from elongate.memory.pieces import apply_in_pieces


def routed(states: Tensor, router: Tensor | None) -> tuple[Tensor, Tensor]:
    """What ZAYA's experts do: add what the router of the layer before returned, which the first layer does not have."""
    scores = states.sin() if router is None else states.sin() + router
    return states * scores, scores


def test_an_mlp_takes_what_the_first_layer_does_not_have() -> None:
    states = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for router in (None, states.cos()):
        whole, pieces = routed(states, router), apply_in_pieces(routed, 3, states, router)
        assert_close(pieces, whole)
        gradients = [torch.autograd.grad(outputs[0].square().sum(), states, retain_graph=True) for outputs in (pieces, whole)]
        assert_close(*gradients)


@pytest.mark.parametrize("differentiable", [True, False])
def test_an_mlp_may_change_its_input(differentiable: bool) -> None:
    """The noise of Mixtral's router is multiplied in place."""
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def noisy(states: Tensor) -> Tensor:
        states *= 2
        return (states * weight).sin()

    given = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(differentiable)
    kept, gradients = given.detach().clone(), []
    outputs = noisy(given.clone()), apply_in_pieces(noisy, 3, given.view_as(given))
    assert_close(*outputs)
    assert torch.equal(given, kept)
    for out in outputs:
        given.grad = weight.grad = None
        out.square().sum().backward()
        gradients.append((weight.grad, given.grad))
    assert_close(*gradients)
