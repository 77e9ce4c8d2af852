"""Every position with every attention on every model: it acts, or the refusal names a remedy that works."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.context.test_tables import extended

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.position.scaling import Scaling
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError
from elongate.models.bert import Bert
from elongate.models.gpt import Gpt
from elongate.models.gpt2 import Gpt2
from elongate.models.modernbert import ModernBert


def choices(group: str) -> dict[str, Any]:
    paths = sorted((conf_directory() / "context" / group).glob("*.yaml"))
    return {path.stem: build(OmegaConf.load(path), "context") for path in paths}


CHOICES = {group: choices(group) for group in ("position", "attention")}


@pytest.mark.parametrize("position", CHOICES["position"].values(), ids=CHOICES["position"])
@pytest.mark.parametrize("model", [Gpt, Gpt2, Bert, ModernBert], ids=lambda model: model.word)
def test_a_strategy_acts_on_a_model_or_is_refused_with_a_remedy_that_works(model: Any, position: Any) -> None:
    for attention in CHOICES["attention"].values():
        strategy = replace(extended(position, 128), attention=attention)
        for _ in range(3):  # a remedy for each question
            if (fault := refusal(strategy, model)) is None:
                break
            remedy = re.match(r"use context/(position|attention)=(\w+)", fault.remedy)
            assert remedy is not None, fault
            assert "\n" not in str(fault)
            strategy = replace(strategy, **{remedy[1]: CHOICES[remedy[1]][remedy[2]]})
        assert refusal(strategy, model) is None
        assert not (isinstance(strategy.position, Scaling) and "learned_positions" in model.has)


def refusal(strategy: Strategy, model: Any) -> ConfigError | None:
    try:
        strategy.check(model.has, 32, model.word)
    except ConfigError as fault:
        return fault
    return None
