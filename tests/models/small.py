"""A small rotary decoder and strategies for it, built without composing a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.attention.full import Full
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.position import Position
from elongate.context.position.scaling import Scaling
from elongate.context.strategy import Strategy
from elongate.models.gpt import Gpt
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained

VOCAB = 257
LENGTH, TARGET = 32, 128  # original and target length
TOKENS = torch.randint(VOCAB, (2, TARGET + 1), generator=torch.Generator().manual_seed(0))
SIZES: dict[str, Any] = {"original_length": LENGTH, "num_layers": 2, "dim": 32, "num_heads": 4, "mlp_dim": 48}


def position(word: str) -> Position:
    """The position that `context/position=word` selects."""
    return build(OmegaConf.load(conf_directory() / f"context/position/{word}.yaml"), "context.position")


SCALINGS = sorted(path.stem for path in (conf_directory() / "context/position").glob("*.yaml"))
SCALINGS = [word for word in SCALINGS if isinstance(position(word), Scaling)]


def strategy(word: str, **fields: Any) -> Strategy:
    parts: dict[str, Any] = {"position": position(word), "attention": Full(), "curriculum": Fixed()}
    return Strategy(**parts | {"target_length": TARGET} | fields)


def gpt(**fields: Any) -> LanguageModel:
    """A fresh model: the same weights at every call."""
    return Gpt(**SIZES | fields).build(VOCAB, seed=0)


def attending(dtype: torch.dtype = torch.float64, **fields: Any) -> LanguageModel:
    """A model whose attention depends on the tokens: that of fresh weights hardly does."""
    model = gpt(**fields)
    for name, p in model.network.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(0))
    model.network.to(dtype)
    return model


def saved(network: Any, folder: Path) -> Pretrained:
    network.save_pretrained(folder)
    return Pretrained(source=str(folder))


def opened(model: Pretrained) -> LanguageModel:
    return model.build(VOCAB, seed=0)
