"""A folder for a model whose positions plain transformers cannot express: what opens it wrongly elsewhere does not open it at all.

It is the folder that transformers writes, but for three names: the model's type and architecture in its config.json, which nothing else
knows, and that of the weights file, for what reads a folder without its config.json. Beside them stands the position.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from elongate.context.position.position import Position
from elongate.errors import ConfigError

VARIANT = "elongate"  # transformers' word for another set of weights: model.elongate.safetensors
_TYPE, _ARCHITECTURE = "elongate-", "Elongate"


def save(network: PreTrainedModel, position: Position, original_length: int, length: int, folder: Path) -> None:
    """`position` was set for a model of `original_length` and sequences of up to `length` tokens."""
    network.save_pretrained(folder, safe_serialization=True, variant=VARIANT)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["model_type"] = _TYPE + config["model_type"]
    config["architectures"] = [_ARCHITECTURE + name for name in config["architectures"]]
    placed = {"word": position.word, **asdict(position)}  # type: ignore[call-overload]  # every position is a dataclass
    config["elongate"] = {"position": placed, "original_length": original_length, "length": length}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_config(source: str, **where: Any) -> tuple[PreTrainedConfig, dict[str, Any] | None]:
    """The configuration as plain transformers knows it, and what stands beside it of ours; None: the checkpoint is a plain one."""
    config, _ = PreTrainedConfig.get_config_dict(source, **where)
    kind = str(config.pop("model_type", ""))
    if not kind.startswith(_TYPE):
        return AutoConfig.from_pretrained(source, **where), None
    ours = config.pop("elongate")
    config["architectures"] = [name.removeprefix(_ARCHITECTURE) for name in config["architectures"]]
    return CONFIG_MAPPING[kind.removeprefix(_TYPE)].from_dict(config), ours


def read_position(ours: dict[str, Any], source: str) -> Position:
    """Raises `ConfigError` for a position that is not known here."""
    fields = dict(ours["position"])
    word = fields.pop("word")
    try:
        module = import_module(f"{Position.__module__.rpartition('.')[0]}.{word}")
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Position)]
        return next(kind for kind in kinds if vars(kind).get("word") == word)(**fields)
    except (ModuleNotFoundError, StopIteration, TypeError) as fault:
        rule = f"was written by another version of Elongate: its position {word} is not known here"
        raise ConfigError("model.source", source, rule, "open it with that version") from fault
