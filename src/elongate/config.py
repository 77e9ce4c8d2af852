"""Builds objects from nodes of the configuration. The class that a node names is its schema; every mistake is one line."""

from __future__ import annotations

import difflib
import math
import re
from abc import ABC, ABCMeta
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, make_dataclass
from importlib import import_module
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.errors import ConfigError, first_line, require
from elongate.foreign import foreign

PRECISIONS = ("fp32", "bf16", "bf16_pure")
KERNELS = ("auto", "none", "liger")


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """The top-level keys of the training configuration that are not groups."""

    name: str  # end of the run directory's name
    seed: int  # at least 0
    steps: int  # optimizer steps of the extension, at least 1
    batch_tokens: int  # tokens of one optimizer step, at every length, at least 1
    precision: str  # fp32, bf16 (computes in bfloat16) or bf16_pure (weights are bfloat16 too)
    kernels: str  # fused layers: auto (Liger on CUDA, where it is installed), none or liger
    device: str  # auto, cpu, cuda, cuda:1 …
    compile: bool  # compile each layer with torch.compile
    overwrite: bool  # start over in a directory that contains a run

    def __post_init__(self) -> None:
        rule, remedy = "must be part of a directory name, without a slash", "use {key}=default, or hydra.run.dir=<folder> for any directory"
        require(self.name != "" and "/" not in self.name, "name", self.name, rule, remedy)
        require(self.seed >= 0, "seed", self.seed, "must be at least 0", "use {key}=0")
        require(self.steps > 0, "steps", self.steps, "must be at least 1", "use {key}=60")
        require(self.batch_tokens > 0, "batch_tokens", self.batch_tokens, "must be at least 1", "use {key}=8192")
        require(self.precision in PRECISIONS, "precision", self.precision, f"must be one of {', '.join(PRECISIONS)}", "use {key}=fp32")
        check_kernels(self.kernels)
        check_device(self.device)


def check_kernels(word: str) -> None:
    """Raises `ConfigError` for a word that names no kernels. Whether they can run is only known with torch."""
    require(word in KERNELS, "kernels", word, f"must be one of {', '.join(KERNELS)}", "use {key}=auto")


def check_device(device: str) -> None:
    """Raises `ConfigError` for a word that names no device. Whether the device exists is only known with torch."""
    known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is not None
    require(known, "device", device, "must be auto, cpu, cuda or cuda:<number>", "use {key}=auto")


def scalars(config: DictConfig, groups: Iterable[str]) -> Scalars:
    """The top-level keys. Raises `ConfigError` for a key that is neither a scalar nor a group, and for a group that was removed."""
    groups = list(groups)
    for group in groups:
        require(group in config, group, "", "is required", "remove ~{key}")
    known = [f.name for f in fields(Scalars)]
    for key in config:
        _known_key(str(key), config._get_node(key), [*known, *groups], "")
    return build_class(Scalars, OmegaConf.masked_copy(config, known), "")


def build(node: DictConfig, path: str, kind: type = object) -> Any:
    """The object that a node describes: its `_target_` class, a subclass of `kind`, called with the node's values.

    Raises `ConfigError` with the full key for a key that is unknown, missing, of the wrong type or out of range.
    """
    return build_class(_class_of(node, path, kind), node, path)


def _class_of(node: DictConfig, path: str, kind: type) -> type:
    """The class that the node names, which may be in a package of the user's own."""
    key, target = f"{path}._target_", str(node.get("_target_", ""))
    module, _, name = target.rpartition(".")
    require(module != "", key, target, "must be a class with its module", "write {key}=my_package.my_module.MyClass")
    remedy = "start the command in the directory that contains the package, or install the package"
    with foreign(lambda reason: ConfigError(key, target, f"cannot be imported ({reason})", remedy)):
        cls: Any = getattr(import_module(module), name, None)
    require(isinstance(cls, type), key, target, f"names no class of {module}", f"check the spelling of {name}")
    require(is_dataclass(cls), key, target, "is not a dataclass", "decorate it with @dataclass(frozen=True, kw_only=True)")
    derived = issubclass(cls, kind)
    require(derived, key, target, f"is not a kind of {kind.__name__}", f"derive it from {kind.__module__}.{kind.__name__}")
    lacking = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
    require(not lacking, key, target, f"does not define {lacking}", f"see {kind.__module__} for what it returns")
    return cast(type, cls)


def build_class(cls: type, node: DictConfig, path: str) -> Any:
    """An instance of the dataclass from the node's values; `path` is the node's place in the configuration. Raises as `build` does."""
    # A field whose key is a keyword of Python ends in an underscore.
    known = {f.name.removesuffix("_"): f for f in fields(cls) if f.init}
    hints = {name.removesuffix("_"): hint for name, hint in get_type_hints(cls).items()}
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
        if get_origin(hints[key]) is dict and isinstance(get_args(hints[key])[1], ABCMeta):
            values[key] = _build_each(value, full, get_args(hints[key])[1])
        elif isinstance(value, DictConfig) and "_target_" in value:
            values[key] = build(value, full, _class_in(hints[key]))
        elif isinstance(value, DictConfig) and (inner := _dataclass_in(hints[key])):
            values[key] = build_class(inner, value, full)
        elif isinstance(hints[key], type) and ABC in hints[key].__mro__:  # issubclass would count what others register
            raise ConfigError(full, value, "is a group, and groups are written with slashes", f"use {full.replace('.', '/')}={value}")
        else:
            plain[key] = value
    values |= _typed({key: (hints[key], known[key]) for key in plain}, plain, path)
    for key, field in known.items():
        given = key in values or field.default is not MISSING or field.default_factory is not MISSING
        require(given, f"{path}.{key}" if path else key, "", "is required", "remove ~{key}")
    try:
        return cls(**{known[key].name: value for key, value in values.items()})
    except ConfigError as fault:
        raise (fault.inside(path) if path else fault) from None


def _build_each(node: Any, path: str, kind: type) -> dict[str, Any]:
    """The objects of a mapping from names to nodes."""
    word, remedy = kind.__name__.lower(), f"use +{path.partition('.')[0]}@{path}.<name>=<word>"
    require(isinstance(node, DictConfig), path, node, f"must name a {word} for each name", remedy)
    for name in map(str, node):
        sound = isinstance(node[name], DictConfig) and "_target_" in node[name]
        require(sound, f"{path}.{name}", node._get_node(name), f"must name a {word}", remedy)
    return {str(name): build(node[name], f"{path}.{name}", kind) for name in node}


def _value(node: DictConfig, key: str, full: str) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException as fault:
        raise ConfigError(full, node._get_node(key), first_line(fault), "give {key} a value") from None


def _typed(kinds: Mapping[str, tuple[Any, Field[Any]]], values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The values in the types of the class's fields, converted by omegaconf's rules (3 becomes a float, "3" an int)."""
    found: dict[str, Any] = {}
    for key, (hint, _) in kinds.items():
        full = f"{path}.{key}" if path else key
        try:
            found[key] = values[key] if _has_type(values[key], hint) else _converted(values[key], hint)
        except OmegaConfBaseException:
            raise ConfigError(full, values[key], f"must be {_type_word(hint)}", _type_remedy(key, *kinds[key], values[key])) from None
        finite = not isinstance(found[key], float) or math.isfinite(found[key])
        require(finite, full, found[key], "must be a finite number", _type_remedy(key, *kinds[key], None))
    return found


def _has_type(value: Any, hint: Any) -> bool:
    """Whether the value needs no conversion. Most values do not, and a conversion takes a millisecond."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = type(value) in (bool, int, float, type(None)) or (type(value) is str and "${" not in value)
    return plain and type(value) in kinds


def _converted(value: Any, hint: Any) -> Any:
    typed = OmegaConf.merge(OmegaConf.structured(make_dataclass("Schema", [("value", hint)])), {"value": value})
    return OmegaConf.to_container(typed)["value"]  # type: ignore[index,call-overload]  # a mapping, since a mapping went in


def _known_key(key: str, node: Any, known: list[str], path: str) -> None:
    if key not in known:
        full = f"{path}.{key}" if path else key
        raise ConfigError(full, node, "there is no such key", nearest(full, [f"{path}.{k}" if path else k for k in known]))


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy: the key that was probably meant, or the keys that exist. Prefers keys of the same group, then the same name elsewhere."""
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
    """The group and the name of a key; subgroups count as keys."""
    group, _, name = key.replace("/", ".").rpartition(".")
    return group, name


def _class_in(hint: Any) -> type:
    """The class of a hint such as `Position` or `Attention | None`."""
    return next(kind for kind in (hint, *get_args(hint), object) if isinstance(kind, type) and kind is not Any)


def _dataclass_in(hint: Any) -> type | None:
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


_TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "a word", type(None): "null", Any: "a value"}
_EXAMPLES = {int: "1", float: "0.1", bool: "true", str: "word"}


def _type_word(hint: Any) -> str:
    if getattr(hint, "__origin__", None) is list:
        return f"a list, each element {_type_word(get_args(hint)[0])}"
    if getattr(hint, "__origin__", None) is dict:
        return f"names with values, each {_type_word(get_args(hint)[1])}"
    return " or ".join(
        _TYPES.get(kind, str(kind)) if not hasattr(kind, "__origin__") else _type_word(kind) for kind in (get_args(hint) or (hint,))
    )


def _type_remedy(key: str, hint: Any, field: Field[Any], value: Any) -> str:
    if int in (hint, *get_args(hint)) and (number := _with_suffix(key, value)):
        return f"use {{key}}={number}"
    if int in (hint, *get_args(hint)) and isinstance(value, float) and value.is_integer():
        return f"use {{key}}={int(value)}"
    if get_origin(hint) is dict:
        return f"write it like {{key}}={{name:{_EXAMPLES[get_args(hint)[1]]}}}"
    lists = [kind for kind in (hint, *get_args(hint)) if getattr(kind, "__origin__", None) is list]
    if lists and value is not None:
        return f"write it like {{key}}=[{_element(get_args(lists[0])[0], value)}]"
    if field.default is not MISSING and field.default is not None:
        return f"use {{key}}={str(field.default).lower() if isinstance(field.default, bool) else field.default}"
    examples = [_EXAMPLES[kind] for kind in (hint, *get_args(hint)) if kind in _EXAMPLES]
    return f"write it like {{key}}={'4096' if key.endswith('length') else examples[0] if examples else '[1,2]'}"


def _with_suffix(key: str, value: Any) -> int | None:
    """The number meant by `8k` or `1.5M`: multiples of 1024 for tokens, of 1000 for everything else. None for other values."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([km])", str(value).lower())
    if match is None:
        return None
    unit = 1024 if key.endswith(("length", "tokens")) else 1000
    return round(float(match[1]) * unit ** (1 if match[2] == "k" else 2))


def _element(kind: Any, value: Any) -> str:
    """The value as an element of a list of that type, or an example of the type."""
    kinds = get_args(kind) or (kind,)
    fits = isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
    return str(value) if fits else next(_EXAMPLES[k] for k in kinds if k in _EXAMPLES)
