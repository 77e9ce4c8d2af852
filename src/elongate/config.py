"""From nodes of the configuration to objects, with every mistake told in one line."""

from __future__ import annotations

import difflib
import math
import re
from abc import ABC
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
    plan: bool  # nothing is trained: what each memory plan would take

    def __post_init__(self) -> None:
        rule, remedy = "must be the end of a folder's name", "use {key}=default, or hydra.run.dir=<folder> for any folder"
        require(self.name != "" and "/" not in self.name, "name", self.name, rule, remedy)
        require(self.seed >= 0, "seed", self.seed, "must be at least 0", "use {key}=0")
        require(self.steps > 0, "steps", self.steps, "must be at least 1", "use {key}=60")
        require(self.batch_tokens > 0, "batch_tokens", self.batch_tokens, "must be at least 1", "use {key}=8192")
        require(self.precision in PRECISIONS, "precision", self.precision, f"must be one of {', '.join(PRECISIONS)}", "use {key}=fp32")
        check_device(self.device)


def check_device(device: str) -> None:
    """Raises `ConfigError` for what is no device at all; whether it is there is known once torch is loaded."""
    known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is not None
    require(known, "device", device, "must be auto, cpu, cuda or cuda:<number>", "use {key}=auto")


def scalars(config: DictConfig, groups: Iterable[str]) -> Scalars:
    """The top of the configuration. Raises `ConfigError` for what is neither a scalar nor a group, and for a group that was taken out."""
    groups = list(groups)
    for group in groups:
        require(group in config, group, "", "must be there", "leave ~{key} out")
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
            raise ConfigError(full, "???", "must be given", f"add {full}=…")
        value = _value(node, key, full)
        if isinstance(value, DictConfig) and "_target_" in value:
            values[key] = build(value, full)
        elif isinstance(value, DictConfig) and (inner := _dataclass_in(hints[key])):
            values[key] = build_class(inner, value, full)
        elif isinstance(hints[key], type) and ABC in hints[key].__mro__:  # issubclass would count what others register
            raise ConfigError(full, value, "is a group, whose choices are set with slashes", f"use {full.replace('.', '/')}={value}")
        else:
            plain[key] = value
    values |= _typed(cls, {key: (hints[key], known[key]) for key in plain}, plain, path)
    for key, field in known.items():
        given = key in values or field.default is not MISSING or field.default_factory is not MISSING
        require(given, f"{path}.{key}" if path else key, "", "must be there", "leave ~{key} out")
    try:
        return cls(**values)
    except ConfigError as fault:
        raise (fault.inside(path) if path else fault) from None


def _value(node: DictConfig, key: str, full: str) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException as fault:
        raise ConfigError(full, node._get_node(key), _first_line(fault), "give {key} a value") from None


def _typed(cls: type, kinds: Mapping[str, tuple[Any, Field[Any]]], values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The values in the types of the class's fields, converted as omegaconf converts them (3 is a float too, "3" an int)."""
    found: dict[str, Any] = {}
    for key, (hint, _) in kinds.items():
        full = f"{path}.{key}" if path else key
        schema = make_dataclass(cls.__name__, [(key, hint)])
        try:
            typed = OmegaConf.merge(OmegaConf.structured(schema), {key: values[key]})
        except OmegaConfBaseException:
            raise ConfigError(full, values[key], f"must be {_type_word(hint)}", _type_remedy(*kinds[key], values[key])) from None
        found[key] = OmegaConf.to_container(typed)[key]  # type: ignore[index,call-overload]  # a mapping, since a mapping went in
        finite = not isinstance(found[key], float) or math.isfinite(found[key])
        require(finite, full, found[key], "must be a finite number", _type_remedy(*kinds[key], None))
    return found


def _known_key(key: str, node: Any, known: list[str], path: str) -> None:
    if key not in known:
        full = f"{path}.{key}" if path else key
        raise ConfigError(full, node, "there is no such key", nearest(full, [f"{path}.{k}" if path else k for k in known]))


def nearest(word: str, known: Iterable[str]) -> str:
    """What may have been meant, else what there is. Keys are compared with those of their own group, then with their names elsewhere."""
    group, name = _parted(word)
    here, elsewhere = {}, []
    for key in sorted(known):
        if _parted(key)[0] == group:
            here[_parted(key)[1]] = key
        elif _parted(key)[1] == name:
            elsewhere.append(key)
    if close := difflib.get_close_matches(name, here, n=1):
        return f"did you mean {here[close[0]]}?"
    if elsewhere and (not here or not group):
        return f"did you mean {' or '.join(elsewhere)}?"
    if not here and (close := difflib.get_close_matches(word, known, n=1)):
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(here.values() or sorted(key for key in known if not _parted(key)[0]))}"


def _parted(key: str) -> tuple[str, str]:
    """The group and the name of a key, or of a group within a group."""
    group, _, name = key.replace("/", ".").rpartition(".")
    return group, name


def _dataclass_in(hint: Any) -> type | None:
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a word", type(None): "null", Any: "a value"}
_EXAMPLES = {int: "1", float: "0.1", bool: "true", str: "word"}


def _type_word(hint: Any) -> str:
    if getattr(hint, "__origin__", None) is list:
        return f"a list, each of it {_type_word(get_args(hint)[0])}"
    return " or ".join(
        _WORDS.get(kind, str(kind)) if not hasattr(kind, "__origin__") else _type_word(kind) for kind in (get_args(hint) or (hint,))
    )


def _type_remedy(hint: Any, field: Field[Any], value: Any) -> str:
    if int in (hint, *get_args(hint)) and isinstance(value, float) and value.is_integer():
        return f"use {{key}}={int(value)}"
    lists = [kind for kind in (hint, *get_args(hint)) if getattr(kind, "__origin__", None) is list]
    if lists and value is not None:
        return f"write it like {{key}}=[{_EXAMPLES[get_args(lists[0])[0]]}]"
    if field.default is not MISSING and field.default is not None:
        return f"use {{key}}={str(field.default).lower() if isinstance(field.default, bool) else field.default}"
    examples = [_EXAMPLES[kind] for kind in (hint, *get_args(hint)) if kind in _EXAMPLES]
    return f"write it like {{key}}={examples[0] if examples else '[1,2]'}"


def _first_line(fault: Exception) -> str:
    return str(fault).strip().splitlines()[0]
