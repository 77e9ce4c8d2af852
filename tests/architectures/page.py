"""The page docs/architectures.md: a row for each architecture of the zoo, and a note for each refusal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.architectures.cells import CELLS
from tests.architectures.rows import FAMILIES, KNOWN_FAULTS
from tests.architectures.zoo import ZOO

PATH = Path(__file__).parents[2] / "docs/architectures.md"
Outcomes = dict[str, list[str]]  # marks and refusals of the cells, by the name of the row


def written(outcomes: Outcomes) -> str:
    """Return the text of the page."""
    notes: dict[str, int] = {}
    rows = []
    for name in sorted(ZOO):
        row = [text if text.startswith("✓") else f"[{notes.setdefault(text, len(notes) + 1)}]" for text in outcomes[name]]
        if len(set(row)) == 1 and row[0].startswith("["):  # does not open
            row[1:] = ["–"] * (len(row) - 1)
        star = " ★" if name in FAMILIES.values() else ""
        rows.append(f"| `{name}`{star} | {' | '.join(row)} |")
    extended = [family for family, name in FAMILIES.items() if name in outcomes and is_extended(outcomes[name])]
    missing = [f"{family} (`{name}`)" for family, name in FAMILIES.items() if family not in extended]
    head = HEAD.format(
        architectures=len(ZOO),
        families=", ".join(f"{family} (`{name}`)" if family != name else f"`{name}`" for family, name in FAMILIES.items()),
        extended=f"{len(extended)} of {len(FAMILIES)}",
        missing="" if not missing else f", all but {', '.join(missing)}",
    )
    header = f"| architecture | {' | '.join(CELLS)} |"
    lines = [f"{number}. `{line}`" for line, number in notes.items()]
    faults = [f"- `{name}`: {fault}." for name, fault in KNOWN_FAULTS.items()]
    table = [header, "|" + "---|" * (1 + len(CELLS)), *rows]
    return "\n".join(
        [head, *table, "", "## Refusals", "", *lines, "", "## Known faults", "", "Tried and not in the table:", "", *faults, ""]
    )


def is_extended(row: list[str]) -> bool:
    """Return whether the architecture is trained exactly and extended by YaRN or its own scaling."""
    marks = dict(zip(CELLS, row, strict=True))
    return all(marks[cell].startswith("✓") for cell in ("same loss", "YaRN"))


@dataclass(frozen=True)
class Page:
    """The committed page."""

    outcomes: Outcomes
    text: str

    @staticmethod
    def read() -> Page:
        text = PATH.read_text(encoding="utf-8")
        notes = {f"[{number}]": line for number, line in re.findall(r"^(\d+)\. `(.*)`$", text, re.MULTILINE)}
        outcomes: Outcomes = {}
        for line in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
            name, *cells = [cell.strip() for cell in line.split("|")[1:-1]]
            row = [notes.get(cell, cell) for cell in cells]
            outcomes[name.removesuffix(" ★").strip("`")] = [row[0] if cell == "–" else cell for cell in row]
        return Page(outcomes, text)


HEAD = """# Architectures

Written by `python -m tests.architectures`, which takes a few minutes. Each row is a checkpoint of two layers with random weights, extended
from 64 to 256 tokens. Each cell is a test (`tests/architectures/test_zoo.py`). The reference is always the same checkpoint in plain
transformers, with its own attention code (`eager`), in float32.

- **same loss**: loss and all gradients of the untouched checkpoint, with `memory=plain`, and with
  `checkpoint` unless that is refused because transformers cannot recompute its layers.
- **YaRN**: extended four-fold with `context=yarn`, exported, and opened by plain transformers: loss, gradients and logits. `✓ interpolate`:
  the architecture has a table of positions, which is interpolated. `✓ ntk`: it takes `ntk` and not
  YaRN. `✓ none`: its positions need no change (`context=none`).
- **window**: `context/attention=window`, against transformers with its masks cut to the window.
- **stream**: `memory=stream` against `memory=plain`, untouched, extended, and in a window.
- **LoRA**: adapters with random weights, merged and exported: logits.

✓: equal to 1e-5. Losses are compared in nats, logits relative to the largest, gradients relative to the norm of the whole gradient.
[n]: refused with the line of that number. –: does not open, for the reason in the first cell.

{architectures} architectures. ★ marks the 40 families that are downloaded most, by our own judgement: the hub was not asked.
{extended} extend with YaRN or the scaling of their own positions{missing}. They are: {families}.
"""
