"""Errors for the user: one line each, with an exit code that a script can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ElongateError(Exception):
    """An error that is reported in one line, without a traceback (`HYDRA_FULL_ERROR=1` shows it)."""

    exit_code = 1


class RunError(ElongateError):
    """A run that cannot continue: a loss that is not finite, a full disk, a checkpoint that cannot be read."""


class Stopped(ElongateError):
    """A run that a signal ended after its checkpoint was written. The same command resumes it."""

    exit_code = 3


class ConfigError(ElongateError):
    """A configuration that cannot work: the key, its value, the rule that it breaks and the remedy.

    A class that is built from a node of the configuration knows only its own field names. The caller that builds it
    adds the path with `inside`. A key that contains a dot is complete and is not changed. `{key}` in the remedy
    is replaced by the full key.
    """

    exit_code = 2

    def __init__(self, key: str, value: Any, rule: str, remedy: str) -> None:
        super().__init__(key, value, rule, remedy)
        self.key, self.value, self.rule, self.remedy = key, value, rule, remedy

    def inside(self, group: str) -> ConfigError:
        """The same error with the group in front of the key."""
        if "." in self.key:
            return self
        return ConfigError(f"{group}.{self.key}" if self.key else group, self.value, self.rule, self.remedy)

    def __str__(self) -> str:
        named = f"{self.key}={written(self.value)}" if self.value != "" else self.key
        return f"{named}: {self.rule}; {self.remedy.replace('{key}', self.key)}"


def written(value: Any) -> str:
    """The value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"[{','.join(map(written, value))}]" if isinstance(value, list | tuple) else str(value)


def first_line(fault: BaseException) -> str:
    """The first line of an exception's message, or its class if it has no message."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0].strip().rstrip(".")


def require(condition: bool, key: str, value: Any, rule: str, remedy: str) -> None:
    """Raises `ConfigError` unless the condition is true."""
    if not condition:
        raise ConfigError(key, value, rule, remedy)


@contextmanager
def inside(group: str) -> Iterator[None]:
    """Puts the group in front of the key of a `ConfigError` raised in the block."""
    try:
        yield
    except ConfigError as fault:
        raise fault.inside(group) from fault.__cause__
