"""Checks of the fields of fresh models. Each raises a one-line `ConfigError`."""

from __future__ import annotations

from typing import Any

from elongate.errors import require


def require_positive(model: Any, *names: str) -> None:
    """Raises `ConfigError` for a count or a length below 1."""
    for name in names:
        value = getattr(model, name)
        require(value > 0, name, value, "must be at least 1", f"use {{key}}={_default(model, name)}")


def require_dropouts(model: Any, *names: str) -> None:
    """Raises `ConfigError` for a rate outside [0, 1)."""
    for name in names:
        value = getattr(model, name)
        rule = "must be at least 0 and below 1"
        require(0 <= value < 1, name, value, rule, f"use {{key}}={_default(model, name)}")


def require_heads(dim: int, num_heads: int, pairs: bool = False) -> None:
    """Raises `ConfigError` for a dim that cannot be divided evenly among the heads; in pairs if they are rotated."""
    unit = 2 * num_heads if pairs else num_heads
    multiple = f"a multiple of num_heads={num_heads}"
    if pairs:
        multiple = f"an even multiple of num_heads={num_heads}: rotary positions rotate pairs"
    require(dim % unit == 0, "dim", dim, f"must be {multiple}", f"use {{key}}={unit * max(1, dim // unit)}")


def require_grouped_heads(num_heads: int, num_kv_heads: int) -> None:
    """Raises `ConfigError` for key/value heads that cannot be shared evenly among the heads."""
    rule = f"must divide num_heads={num_heads}"
    require(num_heads % num_kv_heads == 0, "num_kv_heads", num_kv_heads, rule, f"use {{key}}={num_heads}")


def require_theta(theta: float) -> None:
    """Raises `ConfigError` for a rotary base of at most 1."""
    require(theta > 1, "rope_theta", theta, "must be above 1", "use {key}=10000")


def require_export_dtype(model: Any) -> None:
    """Raises `ConfigError` for a word that names no dtype of exported weights."""
    rule = "must be auto, float32, bfloat16 or float16"
    require(model.export_dtype in ("auto", "float32", "bfloat16", "float16"), "export_dtype", model.export_dtype, rule, "use {key}=auto")


def _default(model: Any, name: str) -> Any:
    return type(model).__dataclass_fields__[name].default
