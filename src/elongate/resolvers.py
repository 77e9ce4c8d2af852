"""Resolvers of the YAML files, and names for commands and directories."""

from __future__ import annotations

import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def register_resolvers() -> None:
    """Registers the resolvers that the YAML files use."""
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    OmegaConf.register_new_resolver("program", program, replace=True)
    OmegaConf.register_new_resolver("fourfold", lambda length: 4 * length, replace=True)


def program(name: str) -> str:
    """The command as the user typed it: `python train.py` or `elongate-train`."""
    typed = Path(sys.argv[0]).name
    return typed if typed == f"elongate-{name}" else f"python {name}.py"


def slug(value: Any) -> str:
    """The value as a directory name: no `=`, `,` or `/`, which break overrides and paths, and at most 100 characters."""
    text = str(value)  # a number, for a folder that is called 2026
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.+")
    return plain if len(plain) <= 100 else f"{plain[:91]}-{sha256(text.encode()).hexdigest()[:8]}"
