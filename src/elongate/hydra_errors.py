"""Translates faults of Hydra, omegaconf and the system into one line each: key, value, rule and remedy."""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from elongate.choices import LISTS, Choices
from elongate.config import nearest
from elongate.errors import ConfigError, ElongateError, RunError, first_line, written

FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_SEVERAL = """add -m to the command line, or quote what is one value with a comma in it: '{key}="…"'"""


@dataclass(frozen=True)
class Translator:
    """Turns faults into errors for the user, with the command line and the choices at hand."""

    config_name: str
    choices: Choices

    def translate(self, fault: Exception) -> ElongateError | None:
        """The fault as an error for the user. None if neither the configuration nor the system caused it."""
        if isinstance(fault, ElongateError):
            return fault
        if isinstance(fault, OverrideParseException):
            return _syntax(fault.override)
        if isinstance(fault, MissingConfigException):
            return self._missing_choice(fault)
        if isinstance(fault, ConfigCompositionException):
            return self._composition(fault)
        if isinstance(fault, HydraException | OmegaConfBaseException):
            return _unnamed(fault)
        if isinstance(fault, OSError):
            return _system(fault)
        if isinstance(fault, ValueError) and "Config group override" in str(fault):
            return self._not_a_word()
        return None

    def _missing_choice(self, fault: MissingConfigException) -> ConfigError:
        group, _, word = str(fault.missing_cfg_file).rpartition("/")
        if not group:
            return ConfigError("--config-name", word, "there is no such configuration", "leave it out")
        if group in LISTS and word in ("none", "null"):
            return ConfigError(group, word, "there is no such choice", "use {key}=[]")
        given = written(_given(group) or word)
        rule = "there is no such choice" if given == word else f"there is no choice {word}"
        return ConfigError(group, given, rule, nearest(word, fault.options or self.choices.words(group)))

    def _not_a_word(self) -> ConfigError:
        """The error for a group that was set to null or to a number. Hydra does not name the group."""
        given = {o.key_or_group: o.value() for o in _overrides()}
        key, value = next((k, v) for k, v in given.items() if self.choices.is_group(k) and not isinstance(v, str | list))
        one_of = f"choose one of {', '.join(self.choices.words(key))}, or leave {{key}} out"
        return ConfigError(key, value, "is not a choice", "use {key}=[]" if key in LISTS else one_of)

    def _composition(self, fault: ConfigCompositionException) -> ConfigError:
        text = first_line(fault)
        if match := re.search(r"Could not override '([^']+)'", text):
            return self._unknown_key(match[1])
        if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^=]+)=(.*)'", text):
            return ConfigError(match[1], match[2], "is several values, which make a sweep", _SEVERAL)
        if match := re.search(r"An item is already at '([^']+)'", text):
            return ConfigError(match[1], _given(match[1]), "exists already", "write {key}=… without the +")
        if isinstance(fault.__cause__, OmegaConfBaseException):
            return _unnamed(fault.__cause__)
        return _unnamed(fault)

    def _unknown_key(self, full: str) -> ConfigError:
        """Names the choices that have the key, or else the nearest key that exists."""
        key, _, package = full.partition("@")
        given = _given(full)
        if package and self.choices.is_group(key):
            return ConfigError(full, given, "there is no such key", f"use {key}={written(given)}")
        keys = self.choices.keys(self.config_name)
        if choices := keys.get(key):
            rule = f"is a key of {' or '.join(choices)}, which is not chosen"
            return ConfigError(key, given, rule, f"add {choices[0]}, or leave {{key}} out")
        return ConfigError(key, given, "there is no such key", nearest(key, keys))


def _syntax(override: str) -> ConfigError:
    key, equals, value = override.partition("=")
    if equals and value.startswith("~"):
        return ConfigError(key, value, "~ is not expanded inside an override", f"write {{key}}={Path(value).expanduser()}")
    if equals and value[:1] not in ("[", "{") and "'" not in value and '"' not in value:
        return ConfigError(key, value, "contains characters that are special to Hydra", f"""quote it twice: '{{key}}="{value}"'""")
    return ConfigError("command line", override, "is not an override", "write key=value, as in steps=60 or evaluation=[curve]")


def _unnamed(fault: Exception) -> ConfigError:
    text = first_line(fault)
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return ConfigError(match[1], "???", "must be given", "add {key}=…")
    if isinstance(fault, OmegaConfBaseException) and fault.full_key:
        return ConfigError(fault.full_key, _given(fault.full_key), text, "see --help")
    return ConfigError("command line", " ".join(sys.argv[1:]), text, "see --help")


def _system(fault: OSError) -> ElongateError:
    what = f"{fault.strerror}: {fault.filename}" if fault.filename and fault.strerror else first_line(fault)
    if fault.errno in UNWRITABLE:
        remedy = "choose another folder with hydra.run.dir=, data.cache= or context.curriculum.base.directory="
        return ConfigError("folder", fault.filename, f"cannot be written ({fault.strerror})", remedy)
    advice = "free some space: " if fault.errno in FULL else ""
    return RunError(f"{what}; {advice}nothing is lost: run the same command to resume")


def _given(key: str) -> Any:
    """The value of the key on the command line, or an empty text. The key may name its package: `group@package`."""
    group, _, package = key.partition("@")
    given = [o.value() for o in _overrides() if o.key_or_group == group and (not package or o.package == package)]
    return given[-1] if given else ""


def _overrides() -> list[Override]:
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    overrides: list[Override] = OverridesParser.create().parse_overrides(words)
    return overrides
