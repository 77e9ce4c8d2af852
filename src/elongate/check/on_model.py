"""Checks of a strategy on a tiny model: the built model against the closed form, causality, export."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from elongate.check.checks import ORIGINAL, TARGET, Check, ensure
from elongate.context.strategy import Strategy
from elongate.models.compatibility import check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.model import Model
from elongate.models.pretrained import Pretrained

VOCAB = 50


def model_checks(kind: Model, strategy: Strategy) -> Iterator[Check]:
    """The checks on a model. The first one extends the model; if it fails, no others follow. Raises `ConfigError`."""
    plain, model = _build(kind), _build(kind)
    check_strategy(model, strategy, ORIGINAL)
    is_extended = False

    def extend() -> str:
        nonlocal is_extended
        evidence = model.extend(strategy, ORIGINAL, TARGET)
        is_extended = True
        errors = {**evidence, **evidence["attention"]}
        return ", ".join(f"{key} {value:.0e}" for key, value in errors.items() if key.endswith("_error"))

    yield "the built model agrees with the closed form, the kernel with dense attention", extend
    if not is_extended:
        return
    yield "the states of a text of the target length are finite", lambda: _check_finite(model)
    # A learned table has no rows past the original length, and most methods keep the rows within it.
    if strategy.acts_untrained and "computed_positions" in plain.has:
        yield "the strategy changes states", lambda: _check_change(model, plain)
    if "causal" in model.has:
        yield "no state depends on a later token", lambda: _check_causality(model)
    yield "the saved model gives the same states when it is opened again", lambda: _check_export(model, strategy)


def _build(kind: Model) -> LanguageModel:
    """The model with larger random weights. Fresh weights give almost uniform attention, which would hide faults."""
    model = kind.build(VOCAB, 0)
    model.network.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3, generator=generator)
    return model


def _check_finite(model: LanguageModel) -> str:
    states = _states(model, _text(TARGET))
    ensure(bool(states.isfinite().all()), f"{int((~states.isfinite()).sum())} of {states.numel()} values are not finite")
    return ""


def _check_change(model: LanguageModel, plain: LanguageModel) -> str:
    change = _distance(_states(model, _text(TARGET)), _states(plain, _text(TARGET)))
    ensure(change > 1e-4, f"the largest change is {change:.0e}: the strategy does nothing on this model")
    return f"by up to {change:.2g}"


def _check_causality(model: LanguageModel) -> str:
    text = _text(TARGET)
    states = _states(model, text)
    for position in (ORIGINAL // 2, ORIGINAL, TARGET - 1):
        other = text.clone()
        other[0, position] = other[0, position] % (VOCAB - 1) + 1
        change = _distance(_states(model, other)[0, :position], states[0, :position])
        ensure(change < 1e-4, f"token {position} changes earlier states by {change:.1e}")
    return ""


def _check_export(model: LanguageModel, strategy: Strategy) -> str:
    text = _text(TARGET)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        reopened = Pretrained(source=folder).build(VOCAB, 0)
    reopened.network.eval()
    reopened.attend(strategy.attention, ORIGINAL, TARGET)
    error = _distance(_states(reopened, text), _states(model, text))
    ensure(error < 1e-4, f"the states differ by up to {error:.1e}")
    return "a plain transformers checkpoint" if model.position.is_plain else "only this package opens it"


def _text(length: int) -> Tensor:
    return torch.randint(1, VOCAB, (1, length), generator=torch.Generator().manual_seed(1))


def _states(model: LanguageModel, tokens: Tensor) -> Tensor:
    with model.probed():
        return model.hidden(tokens)


def _distance(states: Tensor, others: Tensor) -> float:
    return float((states - others).abs().max())
