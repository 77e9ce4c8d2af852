"""Translates faults of Hydra, omegaconf and the system into one line each: key, value, rule and remedy."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elongate.arguments import LISTS
from elongate.config import nearest
from elongate.errors import ConfigError, ElongateError, RunError, first_line

FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def to_elongate_error(fault: Exception, config_name: str, conf: Path) -> ElongateError | None:
    """The fault as an error for the user. None if neither the configuration nor the system caused it."""
    if isinstance(fault, OverrideParseException):
        return _syntax(fault.override)
    if isinstance(fault, MissingConfigException):
        return _missing_choice(fault, conf)
    if isinstance(fault, ConfigCompositionException):
        return _composition(fault, config_name, conf)
    if isinstance(fault, HydraException | OmegaConfBaseException):
        return _unnamed(fault)
    if isinstance(fault, OSError):
        return _system(fault)
    if isinstance(fault, ValueError) and "Config group override" in str(fault):
        return _not_a_word(conf)
    return None


def _syntax(override: str) -> ConfigError:
    key, equals, value = override.partition("=")
    if equals and value.startswith("~"):
        return ConfigError(key, value, "~ is not expanded inside an override", f"write {{key}}={Path(value).expanduser()}")
    if equals and value[:1] not in ("[", "{") and "'" not in value and '"' not in value:
        return ConfigError(key, value, "contains characters that are special to Hydra", f"""quote it twice: '{{key}}="{value}"'""")
    return ConfigError("command line", override, "is not an override", "write key=value, as in steps=60 or evaluation=[curve]")


def _missing_choice(fault: MissingConfigException, conf: Path) -> ConfigError:
    group, _, word = str(fault.missing_cfg_file).rpartition("/")
    if not group:
        return ConfigError("--config-name", word, "there is no such configuration", "leave it out")
    if group in LISTS and word in ("none", "null"):
        return ConfigError(group, word, "there is no such choice", "use {key}=[]")
    given = _given(group) or word
    rule = "there is no such choice" if given == word else f"there is no {word}"
    return ConfigError(group, given, rule, nearest(word, fault.options or _words(group, conf)))


def _not_a_word(conf: Path) -> ConfigError:
    """The error for a group that was set to null, a number and so on; Hydra does not name the group."""
    given = {o.key_or_group: o.value() for o in _overrides()}
    key, value = next((key, value) for key, value in given.items() if (conf / key).is_dir() and not isinstance(value, str | list))
    remedy = "use {key}=[]" if key in LISTS else f"choose one of {', '.join(_words(key, conf))}, or leave {{key}} out"
    return ConfigError(key, value, "is not a choice", remedy)


_SEVERAL = """add -m to the command line, or quote what is one value with a comma in it: '{key}="…"'"""


def _composition(fault: ConfigCompositionException, config_name: str, conf: Path) -> ConfigError:
    text = first_line(fault)
    if match := re.search(r"Could not override '([^']+)'", text):
        key, _, package = match[1].partition("@")
        if package:
            return ConfigError(match[1], _given(match[1]), "there is no such key", f"use {key}=")
        return _unknown_key(key, _given(key), config_name, conf)
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^=]+)=(.*)'", text):
        return ConfigError(match[1], match[2], "is several values, which make a sweep", _SEVERAL)
    if match := re.search(r"An item is already at '([^']+)'", text):
        return ConfigError(match[1], _given(match[1]), "exists already", "write {key}=… without the +")
    if isinstance(fault.__cause__, OmegaConfBaseException):
        return _unnamed(fault.__cause__)
    return _unnamed(fault)


def _unknown_key(key: str, value: Any, config_name: str, conf: Path) -> ConfigError:
    """The error names the choices that have the key, or else the nearest key that exists."""
    keys = _keys(config_name, conf)
    if choices := keys.get(key):
        rule = f"is a key of {' or '.join(choices)}, which is not chosen"
        return ConfigError(key, value, rule, f"add {choices[0]}, or leave {{key}} out")
    return ConfigError(key, value, "there is no such key", nearest(key, keys))


def _unnamed(fault: Exception) -> ConfigError:
    text = first_line(fault)
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return ConfigError(match[1], "???", "must be given", "add {key}=…")
    key = isinstance(fault, OmegaConfBaseException) and fault.full_key
    if key:
        return ConfigError(key, _given(key), text, "see --help")
    return ConfigError("command line", " ".join(sys.argv[1:]), text, "see --help")


def _system(fault: OSError) -> ElongateError:
    what = f"{fault.strerror}: {fault.filename}" if fault.filename and fault.strerror else first_line(fault)
    if fault.errno in UNWRITABLE:
        remedy = "choose another folder with hydra.run.dir=, data.cache= or context.curriculum.base.directory="
        return ConfigError("folder", fault.filename, f"cannot be written ({fault.strerror})", remedy)
    advice = "free some space: " if fault.errno in FULL else ""
    return RunError(f"{what}; {advice}nothing is lost: run the same command to resume")


def _given(key: str) -> Any:
    """The value of the key on the command line, or an empty text."""
    group, _, package = key.partition("@")
    values = [o.value() for o in _overrides() if (o.key_or_group, o.package or "") == (group, package) or o.key_or_group == key]
    return values[-1] if values else ""


def _overrides() -> list[Override]:
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    overrides: list[Override] = OverridesParser.create().parse_overrides(words)
    return overrides


def _words(group: str, conf: Path) -> list[str]:
    return sorted(file.stem for file in (conf / group).glob("*.yaml"))


def _keys(config_name: str, conf: Path) -> dict[str, list[str]]:
    """Every key and group of the configuration and of every choice, with the choices that have it, simplest first."""
    tree = OmegaConf.to_container(OmegaConf.load(conf / f"{config_name}.yaml"))
    assert isinstance(tree, dict), "a configuration is a mapping"
    groups = {str(name) for default in tree["defaults"] if isinstance(default, dict) for name in default}
    keys: dict[str, list[str]] = {key: [] for key in _leaves(tree) if key.partition(".")[0] != "hydra"}
    # Fewest lines first: data=text is proposed before data=hub.
    for file in sorted(conf.rglob("*.yaml"), key=lambda file: (len(file.read_text().splitlines()), file)):
        group = file.parent.relative_to(conf).as_posix()
        if group.partition("/")[0] not in {name.partition("/")[0] for name in groups} or group in ("experiment", "sweep"):
            continue
        keys.setdefault(group, [])
        package = f"{group}.{file.stem}" if group in LISTS else group.replace("/", ".")
        choice = f"{group}=[{file.stem}]" if group in LISTS else f"{group}={file.stem}"
        for key in _leaves(OmegaConf.to_container(OmegaConf.load(file))):
            keys.setdefault(f"{package}.{key}", []).append(choice)
    return keys


def _leaves(tree: object, path: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in ("defaults", "_target_"):
                yield f"{path}{key}"
                yield from _leaves(value, f"{path}{key}.")
