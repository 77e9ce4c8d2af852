"""From nodes of the configuration to objects, with every mistake told in one line. This and its neighbours know hydra and omegaconf; nothing else does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, make_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.errors import ConfigError, require

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """What stands at the top of the configuration beside the groups."""

    name: str  # of the run, within its folder's name
    seed: int  # at least 0
    steps: int  # optimizer steps after the base, at least 1
    batch_tokens: int  # of one optimizer step, whatever the length, at least 1
    precision: str  # fp32 or bf16
    device: str  # auto, cpu, cuda, cuda:1 …
    compile: bool  # layer by layer, through torch.compile
    overwrite: bool  # start over in a folder that holds a run

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "must be at least 0", "use {key}=0")
        require(self.steps > 0, "steps", self.steps, "must be at least 1", "use {key}=60")
        require(self.batch_tokens > 0, "batch_tokens", self.batch_tokens, "must be at least 1", "use {key}=8192")
        require(self.precision in PRECISIONS, "precision", self.precision, f"must be one of {', '.join(PRECISIONS)}", "use {key}=fp32")


def scalars(config: DictConfig, groups: Iterable[str]) -> Scalars:
    """The top of the configuration. Raises `ConfigError` for a key that is neither a scalar nor a group."""
    known = [f.name for f in fields(Scalars)]
    for key in config:
        _known_key(str(key), config._get_node(key), [*known, *groups], "")
    return build_class(Scalars, OmegaConf.masked_copy(config, known), "")


def build(node: DictConfig, path: str) -> Any:
    """The object that a node describes: its `_target_` with the node's values. The class is the schema.

    Raises `ConfigError` with the full key for what is unknown, missing, of the wrong type or out of range.
    """
    module, _, name = str(node["_target_"]).rpartition(".")
    return build_class(getattr(import_module(module), name), node, path)


def build_class(cls: type, node: DictConfig, path: str) -> Any:
    known = {f.name: f for f in fields(cls) if f.init}
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for key in map(str, node):
        if key == "_target_":
            continue
        full = f"{path}.{key}" if path else key
        _known_key(key, node._get_node(key), list(known), path)
        if OmegaConf.is_missing(node, key):
            raise ConfigError(full, "???", "must be given", f"add {full}=<{_type_word(hints[key])}>")
        value = _value(node, key, full)
        if isinstance(value, DictConfig) and "_target_" in value:
            values[key] = build(value, full)
        elif isinstance(value, DictConfig) and (inner := _dataclass_in(hints[key])):
            values[key] = build_class(inner, value, full)
        else:
            plain[key] = value
    values |= _typed(cls, {key: (hints[key], known[key]) for key in plain}, plain, path)
    try:
        return cls(**values)
    except ConfigError as fault:
        raise (fault.inside(path) if path and "." not in fault.key else fault) from None


def _value(node: DictConfig, key: str, full: str) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException as fault:
        raise ConfigError(full, OmegaConf.to_container(node)[key], _first_line(fault), "give {key} a value") from None


def _typed(cls: type, kinds: Mapping[str, tuple[Any, Field[Any]]], values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The values in the types of the class's fields, converted as omegaconf converts them (3 is a float too, "3" an int)."""
    found = {}
    for key, (hint, _) in kinds.items():
        full = f"{path}.{key}" if path else key
        schema = make_dataclass(cls.__name__, [(key, hint)])
        try:
            typed = OmegaConf.merge(OmegaConf.structured(schema), {key: values[key]})
        except OmegaConfBaseException:
            raise ConfigError(full, values[key], f"must be {_type_word(hint)}", _type_remedy(*kinds[key])) from None
        found[key] = OmegaConf.to_container(typed)[key]  # type: ignore[index,call-overload]  # a mapping, since a mapping went in
    return found


def _known_key(key: str, node: Any, known: list[str], path: str) -> None:
    if key not in known:
        full = f"{path}.{key}" if path else key
        raise ConfigError(full, node, "there is no such key", nearest(full, [f"{path}.{k}" if path else k for k in known]))


def nearest(word: str, known: Iterable[str]) -> str:
    """What may have been meant, else what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def _dataclass_in(hint: Any) -> type | None:
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a word", type(None): "null", Any: "a value"}
_EXAMPLES = {int: "1", float: "0.1", bool: "true", str: "word"}


def _type_word(hint: Any) -> str:
    if getattr(hint, "__origin__", None) is list:
        return f"a list, each {_type_word(get_args(hint)[0])}"
    return " or ".join(_WORDS.get(kind, str(kind)) if not hasattr(kind, "__origin__") else _type_word(kind) for kind in (get_args(hint) or (hint,)))


def _type_remedy(hint: Any, field: Field[Any]) -> str:
    if field.default is not MISSING and field.default is not None:
        return f"use {{key}}={str(field.default).lower() if isinstance(field.default, bool) else field.default}"
    examples = [_EXAMPLES[kind] for kind in (hint, *get_args(hint)) if kind in _EXAMPLES]
    return f"write it like {{key}}={examples[0] if examples else '[1,2]'}"


def _first_line(fault: Exception) -> str:
    return str(fault).strip().splitlines()[0]
