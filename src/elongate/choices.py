"""The YAML files that can be chosen: groups, their words, and the keys of each choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LISTS = ("evaluation",)  # groups that take a list of words; all others take one word
PRESETS = ("experiment", "sweep")  # groups without keys of their own


@dataclass(frozen=True)
class Choices:
    """The configurations in several directories; earlier directories have precedence."""

    directories: tuple[Path, ...]

    def is_group(self, name: str) -> bool:
        """Whether a group of this name exists, such as `context/position`."""
        return name != "" and any((directory / name).is_dir() for directory in self.directories)

    def words(self, group: str) -> list[str]:
        """The words of a group, in alphabetical order."""
        return sorted({file.stem for directory in self.directories for file in (directory / group).glob("*.yaml")})

    def keys(self, config_name: str) -> dict[str, list[str]]:
        """Every key of the configuration and of every choice, with the choices that have it.

        The choice with the fewest keys comes first: data=text before data=hub.
        """
        tree = next(_read(file) for file in self._files(f"{config_name}.yaml"))
        groups = {name.partition("/")[0] for default in tree["defaults"] if isinstance(default, dict) for name in map(str, default)}
        keys: dict[str, list[str]] = {key: [] for key in leaves(tree) if key.partition(".")[0] != "hydra"}
        for group, word, own in sorted(self._choices(groups), key=lambda choice: (len(choice[2]), choice[:2])):
            keys.setdefault(group, [])
            package = f"{group}.{word}" if group in LISTS else group.replace("/", ".")
            for key in own:
                keys.setdefault(f"{package}.{key}", []).append(f"{group}=[{word}]" if group in LISTS else f"{group}={word}")
        return keys

    def _choices(self, groups: set[str]) -> Iterator[tuple[str, str, list[str]]]:
        """Group, word and keys of every choice."""
        for directory in self.directories:
            for file in directory.rglob("*.yaml"):
                group = file.parent.relative_to(directory).as_posix()
                if group.partition("/")[0] in groups - {*PRESETS, "override hydra"}:
                    yield group, file.stem, list(leaves(_read(file)))

    def _files(self, name: str) -> Iterator[Path]:
        return (file for directory in self.directories if (file := directory / name).is_file())


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    """The full keys of a tree of mappings, without Hydra's own; a mapping comes before its keys."""
    for key, value in tree.items():
        if key not in ("defaults", "_target_"):
            yield f"{path}{key}"
            if isinstance(value, dict):
                yield from leaves(value, f"{path}{key}.")


def _read(file: Path) -> dict[str, Any]:
    """The file without resolved interpolations. All files are read for one error, so use the fast parser if there is one."""
    tree = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return dict(tree or {})
