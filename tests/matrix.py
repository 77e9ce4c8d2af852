"""Every position strategy on every model: what each cell of docs/positions.md says. `python -m tests.matrix > docs/positions.md` writes the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elongate.build import build_job
from elongate.cli import conf_directory
from elongate.errors import ConfigError
from tests.conftest import composed

_SMALL = ["model.dim=32", "model.num_heads=4", "model.mlp_dim=48", "model.original_length=32"]
MODELS: dict[str, list[str]] = {
    "gpt": [*_SMALL, "model.num_layers=2"],
    "gpt2": [*_SMALL, "model.num_layers=2"],
    "bert": [*_SMALL, "model.num_layers=2"],
    "modernbert": [*_SMALL, "model.num_layers=2", "model.local_length=8"],
    "bidirectional_autoencoder": [*_SMALL, "model.num_encoder_layers=1", "model.num_decoder_layers=1", "model.block_length=8", "model.latents_per_block=8"],
}
POSITIONS = sorted(path.stem for path in (conf_directory() / "context/position").glob("*.yaml"))
SAMPLINGS = sorted(path.stem for path in (conf_directory() / "context/sampling").glob("*.yaml"))
TARGET = 64


@dataclass(frozen=True)
class Cell:
    model: str
    word: str  # of a position or a sampling

    @property
    def overrides(self) -> list[str]:
        return [f"model={self.model}", f"context={self.word}", *MODELS[self.model], f"context.target_length={TARGET}"]

    def refusal(self) -> str | None:
        """The one line that the choice is refused with, as it is told at the default sizes; None: it runs."""
        try:
            build_job(*composed(f"model={self.model}", f"context={self.word}"))
        except ConfigError as fault:
            return str(fault)
        return None

    def job(self, *more: str) -> Any:
        return build_job(*composed(*self.overrides, *more))


CELLS = [Cell(model, word) for word in [*POSITIONS, *SAMPLINGS] for model in MODELS]


def page() -> str:
    refusals: dict[str, int] = {}
    rows = []
    for word in [*POSITIONS, *SAMPLINGS]:
        row = []
        for model in MODELS:
            if (line := Cell(model, word).refusal()) is None:
                row.append("✓" if Cell(model, word).job().strategy.position.is_plain else "✓ ours")
            else:
                row.append(f"[{refusals.setdefault(line, len(refusals) + 1)}]")
        rows.append(f"| `{word}` | {' | '.join(row)} |")
    header = f"| `context=` | {' | '.join(f'`{model}`' for model in MODELS)} |"
    return "\n".join(
        [
            "# Every position strategy on every model",
            "",
            "Written by `python -m tests.matrix`; each cell is run by `tests/test_matrix.py`: trained past the original length, measured, exported and opened again.",
            "",
            "✓: the exported folder is plain transformers (the autoencoder's opens once `elongate` is imported), with the same logits. ✓ ours: plain transformers cannot",
            "express it and refuses the folder; `evaluate.py` reads it. [n]: refused before anything is trained, with the line of that number. `pose` and `randomized` are",
            "positions that training sequences get, beside any position of the group above.",
            "",
            header,
            "|" + "---|" * (1 + len(MODELS)),
            *rows,
            "",
            *(f"{number}. `{line}`" for line, number in refusals.items()),
            "",
        ]
    )


if __name__ == "__main__":
    print(page(), end="")
