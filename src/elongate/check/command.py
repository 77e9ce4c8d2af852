"""Reads the arguments of `elongate-check`, chooses a tiny model and runs the checks: one line each."""

from __future__ import annotations

from itertools import chain
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.check.checks import HEADS, ORIGINAL, TARGET, Check
from elongate.check.frequencies import position_checks
from elongate.check.pairs import attention_checks
from elongate.config import build
from elongate.context.attention.attention import Attention
from elongate.context.attention.full import Full
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.none import Unchanged
from elongate.context.position.position import Position
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError, RunError, first_line, require
from elongate.models.bert import Bert
from elongate.models.gpt import Gpt
from elongate.models.gpt2 import Gpt2
from elongate.models.model import Model

USAGE = "elongate-check strategy=my_package.my_module.MyClass strategy.field=value"
_SIZES: dict[str, Any] = {"original_length": ORIGINAL, "num_layers": 2, "dim": 32, "num_heads": HEADS, "mlp_dim": 48}
_MODELS: tuple[Model, ...] = (Gpt(**_SIZES, num_kv_heads=2), Gpt2(**_SIZES, dropout=0.0), Bert(**_SIZES))


def check(arguments: list[str]) -> None:
    """Prints one line per check. Raises `ConfigError` for a class that cannot be built, `RunError` if a check fails."""
    chosen = _build_strategy(arguments)
    model, strategy = _find_model(chosen)
    print(f"{chosen!r} on a tiny {model.word}, extended from {ORIGINAL} to {TARGET} tokens")
    from elongate.check.on_model import model_checks

    own = position_checks(chosen) if isinstance(chosen, Position) else attention_checks(chosen)
    results = [_passes(check) for check in chain(own, model_checks(model, strategy))]
    if not all(results):
        raise RunError(f"{results.count(False)} of {len(results)} checks failed")


def _passes(check: Check) -> bool:
    title, verify = check
    try:
        detail = verify()
    except AssertionError as fault:
        print(f"failed  {title}: {first_line(fault)}", flush=True)
        return False
    print(f"ok      {title}{f' ({detail})' if detail else ''}", flush=True)
    return True


def _build_strategy(arguments: list[str]) -> Position | Attention:
    """The object that the arguments describe: `strategy=<class>`, and `strategy.<field>=<value>` for its fields."""
    line = " ".join(arguments)
    words = [word.replace("strategy=", "strategy._target_=", 1) if word.startswith("strategy=") else word for word in arguments]
    try:
        given = OmegaConf.from_dotlist(words)
    except OmegaConfBaseException as fault:
        raise ConfigError("command line", line, first_line(fault), f"write {USAGE}") from fault
    target = OmegaConf.select(given, "strategy._target_")
    require(set(given) == {"strategy"} and target is not None, "command line", line, "names no strategy", f"write {USAGE}")
    chosen = build(given.strategy, "strategy")
    known = isinstance(chosen, Position | Attention)
    require(known, "strategy", target, "is neither a Position nor an Attention", "derive it from one of these classes")
    require(isinstance(getattr(chosen, "word", None), str), "strategy", target, "has no word", 'add word: ClassVar[str] = "my_word"')
    return chosen


def _find_model(chosen: Position | Attention) -> tuple[Model, Strategy]:
    """The first tiny model that the strategy can act on. If there is none, raises the `ConfigError` about the first model."""
    position, attention = (chosen, Full()) if isinstance(chosen, Position) else (Unchanged(), chosen)
    strategy = Strategy(position=position, attention=attention, curriculum=Fixed(), target_length=TARGET)
    refused = []
    for model in _MODELS:
        try:
            strategy.check(model.has or frozenset(), ORIGINAL, model.word)
            strategy.check_length(ORIGINAL)
            if model.rotary is not None:
                position.check(model.rotary, TARGET / ORIGINAL)
        except ConfigError as fault:
            refused.append(fault)
        else:
            return model, strategy
    raise refused[0]
