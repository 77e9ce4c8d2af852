"""A folder for a model whose positions plain transformers cannot express.

It is the folder that transformers writes, with three names changed, so that programs which would
read it wrongly fail to open it: the model's type and architecture in config.json, and the name of
the weights file (for programs that do not read config.json). config.json also stores the position.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from elongate.context.position.position import Position
from elongate.errors import ConfigError
from elongate.models.saving import save_network
from elongate.models.source import ModelSource
from elongate.models.stored_dtype import StoredDtypes

VARIANT = "elongate"  # transformers' name for another set of weights: model.elongate.safetensors
_TYPE, _ARCHITECTURE = "elongate-", "Elongate"


def save(
    network: PreTrainedModel, position: Position, original_length: int, length: int, folder: Path, dtypes: StoredDtypes | None = None
) -> None:
    """Write the folder. `position` was set for a model of `original_length` and sequences of `length` tokens."""
    save_network(network, folder, StoredDtypes() if dtypes is None else dtypes, VARIANT)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model_type"] = _TYPE + config["model_type"]
    config["architectures"] = [_ARCHITECTURE + name for name in config["architectures"]]
    placed = {"word": position.word, **asdict(position)}  # type: ignore[call-overload]  # every position is a dataclass
    config["elongate"] = {"position": placed, "original_length": original_length, "length": length}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_config(key: str, source: ModelSource) -> tuple[PreTrainedConfig, dict[str, Any] | None]:
    """Return the configuration as transformers knows it, and our part of it (None: a plain checkpoint).

    Raises `ConfigError`, which names `key`, and what transformers raises.
    """
    config, _ = PreTrainedConfig.get_config_dict(**source.arguments())
    kind = str(config.pop("model_type", ""))
    if not kind.startswith(_TYPE):
        return AutoConfig.from_pretrained(**source.arguments()), None
    ours, names, known = config.pop("elongate", None), config.get("architectures"), kind.removeprefix(_TYPE)
    if not (_is_complete(ours) and isinstance(names, list) and all(isinstance(name, str) for name in names) and known in CONFIG_MAPPING):
        raise source.damaged(key, "its config.json is not as Elongate writes it")
    config["architectures"] = [name.removeprefix(_ARCHITECTURE) for name in names]
    return CONFIG_MAPPING[known].from_dict(config), ours


def _is_complete(ours: Any) -> bool:
    """Return whether our part of a configuration has the form that `save` gives it."""
    if not isinstance(ours, dict) or not isinstance(position := ours.get("position"), dict):
        return False
    lengths = [ours.get(key) for key in ("original_length", "length")]
    return isinstance(position.get("word"), str) and all(type(length) is int and length > 0 for length in lengths)


def read_position(ours: dict[str, Any], source: str) -> Position:
    """Return the stored position. Raises `ConfigError` for one that this version does not have."""
    fields = dict(ours["position"])
    word = fields.pop("word")
    try:
        return _position_class(word)(**fields)
    except (ValueError, TypeError) as fault:
        rule = f"was written by another version of Elongate: its position {word} is unknown here"
        remedy = "open it with that version, or, for a position of your own, name its run directory"
        raise ConfigError("model.source", source, rule, remedy) from fault


def _position_class(word: str) -> type[Position]:
    """Return the built-in position, or else a class of the user's own that is imported.

    Nothing is imported because a checkpoint names it: a checkpoint must not run code.
    """
    package = Position.__module__.rpartition(".")[0]
    with suppress(ModuleNotFoundError):
        import_module(f"{package}.{word}")
    named = [kind for kind in _subclasses(Position) if vars(kind).get("word") == word]
    return min(named, key=lambda kind: not kind.__module__.startswith(f"{package}."))


def _subclasses(kind: type) -> Iterator[type[Position]]:
    subclass: type[Position]
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
