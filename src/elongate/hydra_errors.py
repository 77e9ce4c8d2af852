"""Hydra's and omegaconf's faults, in one line each: the key, the value, the rule and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.config import nearest
from elongate.errors import ConfigError, ElongateError


def worded(fault: Exception, config_name: str, conf: Path) -> ElongateError | None:
    """None for a fault that is not the configuration's."""
    if isinstance(fault, OverrideParseException):
        return ConfigError("command line", fault.override, "is not an override", "write key=value, and quote what the shell would change")
    if isinstance(fault, MissingConfigException):
        group, _, word = str(fault.missing_cfg_file).rpartition("/")
        return ConfigError(group or "config", word, "there is no such choice", nearest(word, fault.options or []))
    if isinstance(fault, ConfigCompositionException):
        return _composition(fault, config_name, conf)
    if isinstance(fault, HydraException | OmegaConfBaseException):
        return ConfigError("configuration", "", _first_line(fault), "see --help")
    if isinstance(fault, OSError):
        return ConfigError("hydra.run.dir", fault.filename, f"cannot be written ({fault.strerror})", "choose a folder of your own")
    return None


def _composition(fault: ConfigCompositionException, config_name: str, conf: Path) -> ConfigError:
    """A key that is not there, with the nearest one that is."""
    text = str(fault)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].partition("@")[0]
        return ConfigError(key, _given(key), "there is no such key", nearest(key, _keys(config_name, conf)))
    if isinstance(fault.__cause__, OmegaConfBaseException):
        return ConfigError(str(fault.__cause__.full_key), "", _first_line(fault.__cause__), "see --help")
    return ConfigError("configuration", "", _first_line(fault), "see --help")


def _given(key: str) -> str:
    import sys

    values = [o.value() for o in OverridesParser.create().parse_overrides([a for a in sys.argv[1:] if "=" in a]) if o.key_or_group == key]
    return str(values[-1]) if values else ""


def _keys(config_name: str, conf: Path) -> Iterable[str]:
    """Every key and group of the default configuration, and every field of every choice."""
    keys = set(OmegaConf.load(conf / f"{config_name}.yaml")) - {"defaults", "hydra"}
    for file in conf.rglob("*.yaml"):
        group = file.parent.relative_to(conf).as_posix()
        if group == "." or group in ("experiment", "sweep"):
            continue
        keys.add(group)
        package = group.replace("/", ".") if group != "evaluation" else f"evaluation.{file.stem}"
        keys |= {f"{package}.{key}" for key in _leaves(OmegaConf.to_container(OmegaConf.load(file)))}
    return {str(key) for key in keys}


def _leaves(tree: object, path: str = "") -> Iterable[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in ("defaults", "_target_"):
                yield f"{path}{key}"
                yield from _leaves(value, f"{path}{key}.")


def _first_line(fault: Exception) -> str:
    return str(fault).strip().splitlines()[0]
