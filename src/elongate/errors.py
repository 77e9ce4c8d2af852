"""What is said to the person at the keyboard: one line each, with the exit code that a script can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ElongateError(Exception):
    """A fault that is told in one line, without a traceback (`HYDRA_FULL_ERROR=1` shows it)."""

    exit_code = 1


class RunError(ElongateError):
    """A run that cannot go on: a loss that is not finite, a full disk, a checkpoint that cannot be read."""


class Stopped(ElongateError):
    """A run that a signal ended after its checkpoint was written; the same command goes on from there."""

    exit_code = 3


class ConfigError(ElongateError):
    """A configuration that cannot work: the key, its value, the rule that it breaks and the remedy.

    Classes that are built from a node of the configuration know only their own field names; whoever builds them
    puts the path in front with `inside`, which leaves a key with a dot in it as it is: that one is whole. `{key}` in the
    remedy stands for the full key.
    """

    exit_code = 2

    def __init__(self, key: str, value: Any, rule: str, remedy: str) -> None:
        super().__init__(key, value, rule, remedy)
        self.key, self.value, self.rule, self.remedy = key, value, rule, remedy

    def inside(self, group: str) -> ConfigError:
        if "." in self.key:
            return self
        return ConfigError(f"{group}.{self.key}" if self.key else group, self.value, self.rule, self.remedy)

    def __str__(self) -> str:
        value = "null" if self.value is None else self.value
        return f"{self.key}={value}: {self.rule}; {self.remedy.replace('{key}', self.key)}"


def require(holds: bool, key: str, value: Any, rule: str, remedy: str) -> None:
    """Raises `ConfigError` unless the rule holds."""
    if not holds:
        raise ConfigError(key, value, rule, remedy)


def first_line(fault: Exception) -> str:
    """Return the first line of an exception's message, or its class if it has no message."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")


@contextmanager
def inside(group: str) -> Iterator[None]:
    """Puts the group in front of the key of a `ConfigError` that is raised in the block."""
    try:
        yield
    except ConfigError as fault:
        raise fault.inside(group) from fault.__cause__
