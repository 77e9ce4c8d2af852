"""Fused kernels in the layers of a network: RMSNorm, SwiGLU and GeGLU, and rotary embeddings, by Liger.

Hsu et al. 2024, arXiv:2410.10989. Liger replaces classes and functions in the modules of transformers, for all
networks of the process; a checkpoint that is opened for comparison would get its kernels too. Here the modules are
restored, and only the layers of one network get another `forward`. Weights, configuration, class names and state dict
stay as they are. The kernels compute what transformers computes up to rounding, which `use_kernels` checks on the
network; they take cosines and sines from the network's rotary embedding, so they follow every position.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from elongate.errors import ConfigError
from elongate.foreign import foreign
from elongate.models.calls import tolerance
from elongate.models.parts import language_part

# What Liger would replace besides the layers: losses, which ours replace, and torch's own LayerNorm, in every network.
_LEFT_OUT = ("cross_entropy", "fused_linear_cross_entropy", "layer_norm")
_GRADIENT_TOLERANCE = 4  # times that of states: a gradient is rounded in twice as many layers


@dataclass
class Kernels:
    """The fused kernels of a network; by default there are none."""

    active: str = "none"  # none, or the package and its version
    layers: dict[str, int] = field(default_factory=dict)  # number of layers with a kernel, by their class
    state_error: float | None = None  # of the logits, relative to those without kernels
    gradient_error: float | None = None  # of the gradient of the embeddings, likewise
    reason: str | None = None  # why there are none, where `auto` would use them

    def evidence(self) -> dict[str, Any]:
        """Return what results.json records."""
        return asdict(self)


def use_kernels(network: PreTrainedModel, word: str, device: torch.device) -> Kernels:
    """Give the layers of a network on `device` the kernels that `word` asks for: auto, none or liger.

    `auto`: Liger's on CUDA, where they are installed and compute what the network computes. Raises `ConfigError` if
    `liger` is asked for and cannot be used.
    """
    if word == "none" or (word == "auto" and device.type != "cuda"):
        return Kernels()
    try:
        require_kernels("liger", device)
        return _liger(network)
    except ConfigError as fault:
        if word == "liger":
            raise
        return Kernels(reason=fault.rule)


def require_kernels(word: str, device: torch.device) -> None:
    """Raise `ConfigError` if `word` asks for kernels that cannot run here."""
    if word != "liger":
        return
    # Triton can interpret kernels on a CPU, for tests.
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError("kernels", word, f"its kernels only run on CUDA devices, and the device is {device}", "use {key}=auto")
    if find_spec("liger_kernel") is None or find_spec("triton") is None:
        raise ConfigError("kernels", word, "liger-kernel is not installed", "pip install 'elongate[gpu]', or use {key}=none")


def _liger(network: PreTrainedModel) -> Kernels:
    """Give the layers Liger's kernels and compare what the network computes. Raises `ConfigError`, with the layers restored."""
    kind, kernels = network.config.model_type, Kernels(f"liger-kernel {version('liger-kernel')}")

    def refusal(rule: str) -> ConfigError:
        return ConfigError("kernels", "liger", f"cannot act on a {kind}: {rule}", "use {key}=none")

    if language_part(network) is not network:
        raise refusal("it reads more than text")
    expected = _logits_and_gradient(network)
    try:
        with foreign(refusal):
            kernels.layers = _replace_layers(network)
            found = _logits_and_gradient(network)
        if not kernels.layers:
            raise refusal("Liger has no kernels for it")
        errors = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, expected, strict=True)]
        kernels.state_error, kernels.gradient_error = errors
        allowed = tolerance(next(network.parameters()), 1e-3)
        if not (errors[0] <= allowed and errors[1] <= _GRADIENT_TOLERANCE * allowed):
            raise refusal(f"with Liger's kernels it computes other states (by {errors[0]:.0e}, gradients by {errors[1]:.0e})")
    except ConfigError:
        for module in network.modules():
            module.__dict__.pop("forward", None)
        raise
    return kernels


def _replace_layers(network: PreTrainedModel) -> dict[str, int]:
    """Give the layers that Liger knows their kernels; return their number by class."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from liger_kernel.transformers.swiglu import LigerExperts

    logging.getLogger("liger_kernel").setLevel(logging.ERROR)  # it lists kernels for other hardware that it cannot import
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(network.config.model_type)
    if apply is None:
        return {}
    left_out = {name: False for name in signature(apply).parameters if name in _LEFT_OUT}
    with _restored_modules() as replaced:
        apply(model=network, **left_out)
    found: Counter[str] = Counter()
    for module in network.modules():
        plain: Any = type(module).forward
        for name in ("_get_name", "extra_repr"):
            module.__dict__.pop(name, None)
        if (own := module.__dict__.pop("forward", None)) is not None:
            if own.__func__ is LigerExperts.forward:  # transformers multiplies in groups, with operators that plans know
                continue
            fused = own.__func__
        elif functions := replaced.get(plain.__module__, {}).keys() & plain.__code__.co_names:
            fused = _with_functions(plain, {name: replaced[plain.__module__][name] for name in functions})
        else:
            continue
        module.forward = MethodType(fused, module)
        found[type(module).__name__] += 1
    return dict(found)


@contextmanager
def _restored_modules() -> Iterator[dict[str, dict[str, Any]]]:
    """Restore what the block replaces in the modules of transformers' models; yields the new functions, by module, afterwards."""
    modules = {name: vars(module) for name, module in sys.modules.items() if name.startswith("transformers.models.")}
    before = {name: dict(namespace) for name, namespace in modules.items()}
    replaced: dict[str, dict[str, Any]] = {}
    try:
        yield replaced
    finally:
        for name, namespace in modules.items():
            new = {key: namespace[key] for key, old in before[name].items() if namespace[key] is not old}
            # Liger has replaced the layers of replaced classes already.
            replaced[name] = {key: value for key, value in new.items() if not isinstance(value, type)}
            namespace.update({key: before[name][key] for key in new})


def _with_functions(plain: Any, functions: dict[str, Any]) -> FunctionType:
    """Return the same function, which finds other functions under some global names."""
    function = FunctionType(plain.__code__, plain.__globals__ | functions, plain.__name__, plain.__defaults__, plain.__closure__)
    function.__kwdefaults__ = plain.__kwdefaults__
    return function


def _logits_and_gradient(network: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return the logits of a few tokens, and the gradient of their square with respect to the embeddings."""
    embedding: Any = network.get_input_embeddings()
    tokens = torch.arange(1, 9, device=embedding.weight.device)[None] % embedding.weight.shape[0]
    embedded: list[Tensor] = []
    # Without a gradient of the weights, which a large network has no space for.
    hook = embedding.register_forward_hook(lambda module, args, output: embedded.append(output.requires_grad_()))
    training = network.training
    network.eval()
    try:
        with torch.enable_grad():
            logits = network(input_ids=tokens, use_cache=False).logits.float()
            (gradient,) = torch.autograd.grad(logits.square().mean(), embedded[0])
    finally:
        hook.remove()
        network.train(training)
    return logits.detach(), gradient.float()
