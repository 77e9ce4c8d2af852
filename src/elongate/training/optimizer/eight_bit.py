"""AdamW for weights in bfloat16, by torchao: its state takes 8 bits per number, and updates are rounded stochastically.

Rounded to the nearest bfloat16, an update below 1/512 of its weight is lost. Rounded up or down at random, with
probabilities that make the mean exact, updates of any size add up (Gupta et al. 2015, arXiv:1502.02551). Both moments are
stored as 8-bit codes with one scale per 256 numbers (Dettmers et al. 2021, arXiv:2110.02861); those of small tensors
are bfloat16. Together a trained weight takes 2 bytes, its gradient 2 and its state 2.03.

torchao draws the random numbers from torch's generator, which the training loop seeds before every step. On a GPU it
compiles the update, once per shape. On a CPU, where compiling takes minutes, the update runs operator by operator and
needs several times the memory of the largest weight while it runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from elongate.errors import ConfigError

_INNER = ("codes", "scale")  # the tensors of an 8-bit state; the table of what the codes mean is the same for all
_SIGNED = {"exp_avg": True, "exp_avg_sq": False}  # keys of the state whose numbers have 8 bits


def require_torchao() -> None:
    """Raises `ConfigError` if torchao is not installed."""
    if find_spec("torchao") is None:
        raise ConfigError("precision", "bf16_pure", "torchao is not installed", "pip install 'elongate[pure]', or use {key}=bf16")


def eight_bit_adamw(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
    """Returns the optimizer of weights in bfloat16. Its `state_dict` consists of plain tensors."""
    from torchao.optim import AdamW8bit

    optimizer: Optimizer = AdamW8bit(groups, lr=lr, betas=betas, bf16_stochastic_round=True)
    optimizer.register_state_dict_post_hook(_as_plain_tensors)
    optimizer.register_load_state_dict_pre_hook(_as_states)
    if all(p.device.type == "cpu" for group in optimizer.param_groups for p in group["params"]):
        optimizer.step = torch.compiler.set_stance("force_eager")(optimizer.step)  # type: ignore[method-assign]
    return optimizer


def _as_plain_tensors(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with `exp_avg.codes` and `exp_avg.scale` instead of an `exp_avg` of 8 bits."""

    def parts(key: str, value: Tensor) -> dict[str, Tensor]:
        inner = {f"{key}.{name}": getattr(value, name, None) for name in _INNER}
        return {key: value} if None in inner.values() else inner

    states = state_dict["state"].items()
    plain = {i: {name: part for key, value in state.items() for name, part in parts(key, value).items()} for i, state in states}
    return state_dict | {"state": plain}


def _as_states(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict that `_as_plain_tensors` was given."""
    from torchao.optim.subclass_8bit import OptimState8bit

    states = {}
    for index, plain in state_dict["state"].items():
        states[index] = {key: value for key, value in plain.items() if "." not in key}
        for key, signed in _SIGNED.items():
            if f"{key}.codes" in plain:
                codes, scale = (plain[f"{key}.{name}"] for name in _INNER)
                empty = OptimState8bit.zeros(codes.shape, signed, codes.numel() // scale.numel(), codes.device)
                states[index][key] = OptimState8bit(codes, scale, empty.qmap, signed, dtype=torch.bfloat16)
    return state_dict | {"state": states}
