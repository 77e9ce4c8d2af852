"""Every position strategy on every model: `python -m tests.matrix > docs/positions.md` writes the page that says what each cell is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from elongate.build import build_job
from elongate.cli import conf_directory
from elongate.errors import ConfigError
from tests.conftest import composed

ORIGINAL, TARGET = 32, 64  # tokens
_SMALL = ["model.dim=32", "model.num_heads=4", "model.mlp_dim=48", f"model.original_length={ORIGINAL}"]
MODELS: dict[str, list[str]] = {
    "gpt": [*_SMALL, "model.num_layers=2"],
    "gpt2": [*_SMALL, "model.num_layers=2"],
    "bert": [*_SMALL, "model.num_layers=2"],
    "modernbert": [*_SMALL, "model.num_layers=2", "model.local_length=8"],
    "bidirectional_autoencoder": [
        *_SMALL,
        "model.num_encoder_layers=1",
        "model.num_decoder_layers=1",
        "model.block_length=8",
        "model.latents_per_block=8",
    ],
}
POSITIONS = sorted(path.stem for path in (conf_directory() / "context/position").glob("*.yaml"))
SAMPLINGS = sorted(path.stem for path in (conf_directory() / "context/sampling").glob("*.yaml"))


@dataclass(frozen=True)
class Cell:
    model: str
    word: str  # of a position or a sampling

    @property
    def choice(self) -> list[str]:
        # Sampled positions go with whatever makes the model reach that far.
        table = self.word in SAMPLINGS and self.model in ("gpt2", "bert")
        return [f"model={self.model}", f"context={self.word}", *(["context/position=interpolate"] if table else [])]

    @cache  # noqa: B019  # cells are few and live as long as the tests
    def refusal(self) -> str | None:
        """The one line with which the choice is refused at the default sizes; None if it runs."""
        try:
            build_job(*composed(*self.choice))
        except ConfigError as fault:
            return str(fault)
        return None

    def job(self, *more: str) -> Any:
        return build_job(*composed(*self.choice, *MODELS[self.model], f"context.target_length={TARGET}", *more))


CELLS = [Cell(model, word) for word in [*POSITIONS, *SAMPLINGS] for model in MODELS]


def page() -> str:
    refusals: dict[str, int] = {}
    rows = []
    for word in [*POSITIONS, *SAMPLINGS]:
        marks = []
        for cell in (Cell(model, word) for model in MODELS):
            if (line := cell.refusal()) is None:
                marks.append("✓" if cell.job().strategy.position.is_plain else "✓ ours")
                continue
            # One line for all that are refused alike.
            line = line.replace(f"context/position={word}:", "context/position=…:").replace(f"model={cell.model} ", "model=… ")
            line = re.sub(r"target_length=\d+", "target_length=…", line)
            marks.append(f"[{refusals.setdefault(line, len(refusals) + 1)}]")
        rows.append(f"| `{word}` | {' | '.join(marks)} |")
    header = f"| `context=` | {' | '.join(f'`{model}`' for model in MODELS)} |"
    notes = [f"{number}. `{line}`" for line, number in refusals.items()]
    return "\n".join([HEAD, header, "|" + "---|" * (1 + len(MODELS)), *rows, "", *notes, ""])


HEAD = """# Every position strategy on every model

Written by `python -m tests.matrix > docs/positions.md`. Each cell is run by `tests/test_matrix.py` at tiny size: a base, some steps past
its length, the loss out there, the export, and the export opened again.

✓: plain transformers opens the export and computes the same logits (the autoencoder's after `import elongate.models.autoencoder.network`).
✓ ours: plain transformers cannot express it, so it does not open the folder; `evaluate.py` and `model=pretrained` do.
[n]: refused before anything is trained, with the line of that number.

`pose` and `randomized` sample the positions of training sequences and go with any position above them: here with that of their preset, on
`gpt2` and `bert` with `context/position=interpolate`.
"""


if __name__ == "__main__":
    print(page(), end="")
