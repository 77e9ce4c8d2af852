"""LongRoPE (Ding et al. 2024, arXiv:2402.13753): each pair's frequency is divided by a factor of its own, and the factors are searched for.

frequency_i = 1 / (λ_i · theta^(2i/d)), eq. 2; cosine and sine are multiplied by sqrt(1 + ln s / ln L). Texts of up to the original length L
are read with the short factors, longer ones with the long factors: one choice for the whole text. Plain transformers makes it at the
longest position of a call, and keys that it cached before the crossing stay as they were: there, give a text at once.

The search starts from YaRN's factors, those of position interpolation and the NTK-aware ones, and looks for the lowest loss of the
untrained model on training documents that are as long as the target. Left out of the paper: its search for first tokens that are not
interpolated (so does the released code), and its second search after a first extension. The attention factor is that of plain
transformers, and also acts on short texts.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.context.position.evolution import Evolution
from elongate.context.position.ntk import NtkAware
from elongate.context.position.position import Bench
from elongate.context.position.scaling import Rotary, Scaling
from elongate.context.position.yarn import Yarn
from elongate.errors import ConfigError, require

_HIGHEST = 1.25  # of the factors that are tried, as a multiple of target_length / original_length (the paper's table 4)


@dataclass(frozen=True, kw_only=True)
class LongRope(Scaling):
    short_factor: list[float] | None = None  # of each pair, fastest first, at least 1; null: 1
    long_factor: list[float] | None = None  # likewise; null: what the search finds, without a search YaRN's
    factors: str | None = None  # a longrope.json that a search wrote, in place of the lists
    search: Evolution = field(default_factory=Evolution)  # for the long factors, where none are given

    word: ClassVar[str] = "longrope"

    def __post_init__(self) -> None:
        given = self.factors is not None or self.long_factor is not None
        require(not given or self.search == Evolution(), "search", "{…}", "is not used where factors are given", "leave {key} out")
        lists = (self.short_factor, self.long_factor)
        require(self.factors is None or lists == (None, None), "factors", self.factors, "stands in place of both lists", "leave one out")
        for name in ("short_factor", "long_factor"):
            _check_range(name, getattr(self, name))
        for name, values in self._read.items():
            _check_range("factors", values, f", {name} in it")

    def check(self, rotary: Rotary, factor: float) -> None:
        pairs, key = rotary.dim // 2, "context.position."
        known = {"short_factor": self.short_factor, "long_factor": self.long_factor}
        for name, values in known.items():
            if values is not None and len(values) != pairs:
                rule = f"must have a factor for each of the {pairs} pairs of dimensions that the model rotates, not {len(values)}"
                raise ConfigError(key + name, values, rule, f"give {pairs} numbers")
        for name, values in self._read.items():
            if len(values) != pairs:
                rule = f"holds a {name} of {len(values)} pairs of dimensions, the model rotates {pairs}"
                raise ConfigError(f"{key}factors", self.factors, rule, "name the file of a search on such a model")

    # -- the factors -------------------------------------------------------------------------------------------------

    def short(self, rotary: Rotary) -> Float[np.ndarray, " half"]:
        given = self._read.get("short_factor", self.short_factor)
        return np.ones(rotary.dim // 2) if given is None else np.array(given)

    def long(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        given = self._read.get("long_factor", self.long_factor)
        return rotary.frequencies() / Yarn().frequencies(rotary, factor) if given is None else np.array(given)

    def frequencies(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        return self.read_frequencies(rotary, factor, round(factor * rotary.original_length))

    def read_frequencies(self, rotary: Rotary, factor: float, length: int) -> Float[np.ndarray, " half"]:
        return rotary.frequencies() / (self.short(rotary) if length <= rotary.original_length else self.long(rotary, factor))

    def attention_factor(self, rotary: Rotary, factor: float) -> float:
        return math.sqrt(1 + math.log(factor) / math.log(rotary.original_length)) if factor > 1 else 1.0

    def rope_parameters(self, rotary: Rotary, factor: float) -> dict[str, Any]:
        return {
            "rope_type": "longrope",
            "rope_theta": rotary.theta,
            "factor": factor,
            "original_max_position_embeddings": rotary.original_length,
            "short_factor": self.short(rotary).tolist(),
            "long_factor": self.long(rotary, factor).tolist(),
            "attention_factor": self.attention_factor(rotary, factor),
        }

    # -- the search --------------------------------------------------------------------------------------------------

    def num_documents(self, factor: float) -> int:
        searches = self.long_factor is None and self.factors is None and self.search.iterations > 0 and factor > 1
        return self.search.num_documents if searches else 0

    def searched(self, bench: Bench) -> dict[str, Any]:
        rotary, factor = bench.rotary, bench.factor
        plain = rotary.frequencies()
        known = {"yarn": Yarn(), "pi": None, "ntk": NtkAware()}
        starts = {word: np.full(len(plain), factor) if p is None else plain / p.frequencies(rotary, factor) for word, p in known.items()}

        def trial(factors: Float[np.ndarray, " half"]) -> LongRope:
            return LongRope(short_factor=self.short_factor, long_factor=factors.tolist())

        found = self.search.run(
            {word: np.maximum(factors, 1.0) for word, factors in starts.items()},  # rounding
            _HIGHEST * factor,
            lambda factors: float(bench.losses(trial(factors)).mean()),
            np.random.default_rng(bench.seed),
            lambda done, best: bench.told(done, self.search.num_candidates, best),
        )
        return {
            "original_length": rotary.original_length,
            "target_length": round(factor * rotary.original_length),
            "short_factor": self.short(rotary).tolist(),
            "long_factor": found.factors.tolist(),
            "loss": found.loss,
            "starts": {word: {"factors": starts[word].tolist(), "loss": loss} for word, loss in found.started.items()},
            "losses": found.losses,
            "num_tried": found.num_tried,
            "seed": bench.seed,
            "search": asdict(self.search),
            "held_out": _compared(bench, trial(found.factors), {"yarn_factors": trial(starts["yarn"]), "yarn": Yarn()}),
        }

    def found(self, file: Path) -> LongRope:
        return LongRope(factors=str(file))

    @cached_property
    def _read(self) -> dict[str, list[float]]:
        """The lists of the file."""
        if self.factors is None:
            return {}
        remedy = "name the longrope.json of a run"
        try:
            found = json.loads(Path(self.factors).read_text())
            return {name: [float(value) for value in found[name]] for name in ("short_factor", "long_factor")}
        except OSError as fault:
            raise ConfigError("factors", self.factors, f"cannot be read: {fault.strerror}", remedy) from fault
        except (ValueError, KeyError, TypeError) as fault:
            raise ConfigError("factors", self.factors, "holds no lists short_factor and long_factor of numbers", remedy) from fault


def _compared(bench: Bench, position: LongRope, others: dict[str, Scaling]) -> dict[str, Any]:
    """On documents that neither the search nor any training has seen: mean losses, and by how much the position's is below the others'."""
    own = bench.held_out_losses(position)
    table: dict[str, Any] = {"n": len(own)}
    if not len(own):
        return table
    table["found"] = float(own.mean())
    for word, other in others.items():
        gains = bench.held_out_losses(other) - own
        error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else None
        table[word] = {"loss": float((own + gains).mean()), "gain": float(gains.mean()), "standard_error": error}
    return table


def _check_range(key: str, values: list[float] | None, where: str = "") -> None:
    for value in values or ():
        require(math.isfinite(value) and value >= 1, key, value, f"must be a finite number, at least 1{where}", "correct that factor")
