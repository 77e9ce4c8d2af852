"""Checks the words of the command line before Hydra reads them."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from elongate.choices import LISTS, Choices
from elongate.errors import ConfigError


def remove_dashes(arguments: list[str]) -> list[str]:
    """The arguments with `--key=value` written as `key=value`. Options of Hydra stay as they are.

    The agents of W&B sweeps pass every parameter with two dashes.
    """
    options = _parser()._option_string_actions
    pattern = re.compile(r"--([A-Za-z_][\w./@-]*)=")
    matches = [(argument, pattern.match(argument)) for argument in arguments]
    return [argument[2:] if match and f"--{match[1]}" not in options else argument for argument, match in matches]


def name_plan(arguments: list[str]) -> list[str]:
    """The arguments with `plan=true` written as `plan.show=true` where other keys of `plan` are set, which it would replace."""
    if not any(re.match(r"\+{0,2}plan\.", argument) for argument in arguments):
        return arguments
    return [re.sub(r"^(\+{0,2})plan=", r"\1plan.show=", argument) for argument in arguments]


def config_directories(arguments: list[str], conf: Path) -> tuple[Path, ...]:
    """Where configurations are looked up: `--config-dir` if it is given, then `conf`. Raises `ConfigError`."""
    own = _parser().parse_args(arguments).config_dir
    if own is None:
        return (conf,)
    if not Path(own).is_dir():
        raise ConfigError("--config-dir", own, "there is no such directory", "name a directory with groups, such as <directory>/model")
    return (Path(own), conf)


def rerun_arguments(arguments: list[str]) -> list[str]:
    """The arguments, with Hydra's settings if they name the config.yaml of a run: `--config-dir <run> --config-name config`.

    The file is the resolved configuration, which has no settings of Hydra. The repeated run gets a directory of its own.
    """
    options = _parser().parse_args(arguments)
    if options.config_dir is None or options.config_name is None:
        return arguments
    folder = Path(options.config_dir).resolve()
    if not _is_of_run(folder / f"{options.config_name.removesuffix('.yaml')}.yaml"):
        return arguments
    added = {
        "hydra.run.dir": f"runs/{folder.name}-again",
        "hydra.sweep.dir": f"runs/sweep-{folder.name}-again",
        "hydra.sweep.subdir": '"${slug:${hydra:job.override_dirname}}"',
        "hydra.output_subdir": "null",
        "hydra/job_logging": "none",
        "hydra/hydra_logging": "none",
        "+hydra.callbacks.comparison._target_": "elongate.cli.SweepComparison",
    }
    given = {word.partition("=")[0] for word in arguments}
    return [*arguments, *(f"{key}={value}" for key, value in added.items() if key not in given)]


def _is_of_run(file: Path) -> bool:
    """Whether a file is a resolved configuration."""
    return file.is_file() and re.search(rb"^(defaults|hydra):", file.read_bytes(), re.MULTILINE) is None


def check_arguments(arguments: list[str], choices: Choices) -> None:
    """Raises `ConfigError` for several words of a group that takes one. Hydra would use the last one silently."""
    for text in _parser().parse_args(arguments).overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except OverrideParseException:
            continue  # Hydra reports it, with the rest of the command line at hand
        group, value = override.key_or_group, override.value()
        if isinstance(value, list) and group not in LISTS and choices.is_group(group):
            words = ",".join(map(str, value))
            sweep = f", or compare them in a sweep: -m {{key}}={words}" if len(value) > 1 else ""
            one = value[0] if value else choices.words(group)[0]
            raise ConfigError(group, value, "takes one word", f"use {{key}}={one}{sweep}")


def _parser() -> ArgumentParser:
    """Hydra's parser, except that an unknown option raises `ConfigError` instead of printing ten lines of usage."""
    parser: ArgumentParser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError("command line", message, "is not understood", "write key=value; --help lists options such as -m")

    parser.error = refuse  # type: ignore[method-assign]  # argparse's own hook for this
    return parser
