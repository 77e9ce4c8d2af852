"""What the fields of fresh models must keep to, each told in one line."""

from __future__ import annotations

from typing import Any

from elongate.errors import require


def require_positive(model: Any, *names: str) -> None:
    """Raises `ConfigError` for a count or a length below 1."""
    for name in names:
        value, default = getattr(model, name), type(model).__dataclass_fields__[name].default
        require(value > 0, name, value, "must be at least 1", f"use {{key}}={default}")


def require_dropouts(model: Any, *names: str) -> None:
    """Raises `ConfigError` for a rate outside [0, 1)."""
    for name in names:
        value, default = getattr(model, name), type(model).__dataclass_fields__[name].default
        require(0 <= value < 1, name, value, "must be at least 0 and below 1", f"use {{key}}={default}")


def require_heads(dim: int, num_heads: int, pairs: bool = False) -> None:
    """Raises `ConfigError` for a dim that is not shared out evenly among the heads, in pairs where they are rotated."""
    unit = 2 * num_heads if pairs else num_heads
    why = f"an even multiple of num_heads={num_heads}: rotary positions turn pairs" if pairs else f"a multiple of num_heads={num_heads}"
    require(dim % unit == 0, "dim", dim, f"must be {why}", f"use {{key}}={unit * max(1, dim // unit)}")
