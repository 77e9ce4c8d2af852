"""What trackers show of metrics, results and tables."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Values = Mapping[str, Any]


def train_scalars(line: Values) -> dict[str, float]:
    """The numbers of a line of `metrics.jsonl` as train/<key>, except the step."""
    return {f"train/{key}": value for key, value in numbers(line).items() if key != "step"}


def numbers(values: Values) -> dict[str, float]:
    """The values that are numbers. True and False are not."""
    return {key: value for key, value in values.items() if type(value) in (int, float)}


def read_table(path: Path) -> list[list[str]]:
    """The rows of a CSV file, its header first."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
