"""The words of the command line, checked before Hydra reads them."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from elongate.errors import ConfigError

LISTS = ("evaluation",)  # groups of which one chooses any number of words


def without_dashes(arguments: list[str]) -> list[str]:
    """The arguments with `--key=value` as `key=value`, as W&B's sweep agents pass them. Options of Hydra stay."""
    options = _parser()._option_string_actions
    pattern = re.compile(r"--([A-Za-z_][\w./@-]*)=")
    matches = [(argument, pattern.match(argument)) for argument in arguments]
    return [argument[2:] if match and f"--{match[1]}" not in options else argument for argument, match in matches]


def check_arguments(arguments: list[str], conf: Path) -> None:
    """Raises `ConfigError` for an option that Hydra does not know, and for several words of a group that takes one."""
    overrides: list[str] = _parser().parse_args(arguments).overrides
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except OverrideParseException:
            continue  # Hydra reports it, with the rest of the command line at hand
        group, value = override.key_or_group, override.value()
        if isinstance(value, list) and (conf / group).is_dir() and group not in LISTS:
            words = ",".join(map(str, value))
            one = words.partition(",")[0]
            raise ConfigError(group, value, "takes one word", f"use {{key}}={one}, or compare them in a sweep: -m {{key}}={words}")


def _parser() -> ArgumentParser:
    """Hydra's parser; unknown options raise `ConfigError` where Hydra prints ten lines of usage."""
    parser: ArgumentParser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError("command line", message, "is not understood", "write key=value; options such as -m are listed by --help")

    parser.error = refuse  # type: ignore[method-assign]  # argparse's own hook for this
    return parser
