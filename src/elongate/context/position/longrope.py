"""LongRoPE (Ding et al. 2024, arXiv:2402.13753): every frequency has its own factor, found by a search.

frequency_i = 1 / (λ_i · theta^(2i/d)), eq. 2; cosine and sine are multiplied by sqrt(1 + ln s / ln L). Texts of up
to the original length L are read with the short factors, longer ones with the long factors: one choice for the
whole text. Plain transformers chooses by the largest position of each call and does not update keys that were
cached before; there, pass a text in one call.

The search starts from the factors of YaRN, position interpolation and NTK-aware scaling, and looks for the lowest
loss of the model before its extension, on training documents as long as the target. Left out of the paper: its
search for first tokens that are not interpolated (the released code omits it too) and its second search after a
first extension. The attention factor is that of plain transformers and also acts on short texts.
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
from elongate.context.position.rotary import Rotary
from elongate.context.position.scaling import Scaling
from elongate.context.position.searchable import Bench
from elongate.context.position.yarn import Yarn
from elongate.errors import ConfigError, require

_HIGHEST = 1.25  # largest factor tried, as a multiple of target_length / original_length (the paper's table 4)


@dataclass(frozen=True, kw_only=True)
class LongRope(Scaling):
    """Frequencies divided by two lists of factors, one for short and one for long texts."""

    short_factor: list[float] | None = None  # one per pair, fastest first, at least 1; null: 1
    long_factor: list[float] | None = None  # one per pair, likewise; null: result of the search, or YaRN's without one
    factors: str | None = None  # a longrope.json written by a search, in place of both lists
    search: Evolution = field(default_factory=Evolution)  # for the long factors, if none are given

    word: ClassVar[str] = "longrope"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.factors is not None or self.long_factor is not None
        require(
            not given or self.search == Evolution(),
            "search",
            "{…}",
            "has no effect if factors are given",
            "remove {key}",
        )
        lists = (self.short_factor, self.long_factor)
        require(
            self.factors is None or lists == (None, None),
            "factors",
            self.factors,
            "replaces both lists",
            "give either the file or the lists",
        )
        for name in ("short_factor", "long_factor"):
            _check_range(name, getattr(self, name))
        for name, values in self._read.items():
            _check_range("factors", values, f" (its {name})")

    def check(self, rotary: Rotary, factor: float) -> None:
        pairs, key = rotary.dim // 2, "context.position."
        for name, values in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if values is not None and len(values) != pairs:
                rule = f"must have a factor for each of the {pairs} pairs of dimensions that the model rotates, not {len(values)}"
                raise ConfigError(key + name, values, rule, f"give {pairs} numbers")
        for name, values in self._read.items():
            if len(values) != pairs:
                rule = f"contains a {name} for {len(values)} pairs of dimensions, the model rotates {pairs}"
                raise ConfigError(f"{key}factors", self.factors, rule, "use {key}=<the longrope.json of a search on such a model>")

    # -- the factors -------------------------------------------------------------------------------------------------

    def short(self, rotary: Rotary) -> Float[np.ndarray, " half"]:
        """Factors for texts of up to the original length."""
        given = self._read.get("short_factor", self.short_factor)
        return np.ones(rotary.dim // 2) if given is None else np.array(given)

    def long(self, rotary: Rotary, factor: float) -> Float[np.ndarray, " half"]:
        """Factors for longer texts."""
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

    def run_search(self, bench: Bench) -> dict[str, Any]:
        rotary, factor = bench.rotary, bench.factor
        starts = self._starts(rotary, factor)
        result = self.search.run(
            {word: np.maximum(factors, 1.0) for word, factors in starts.items()},  # rounding
            _HIGHEST * factor,
            lambda factors: float(bench.losses(self._candidate(factors)).mean()),
            np.random.default_rng(bench.seed),
            lambda done, best: bench.report_progress(done, self.search.num_candidates, best),
        )
        others = {"yarn_factors": self._candidate(starts["yarn"]), "yarn": Yarn()}
        return {
            "original_length": rotary.original_length,
            "target_length": round(factor * rotary.original_length),
            "short_factor": self.short(rotary).tolist(),
            "long_factor": result.factors.tolist(),
            "loss": result.loss,
            "starts": {word: {"factors": starts[word].tolist(), "loss": loss} for word, loss in result.start_losses.items()},
            "losses": result.losses,
            "num_tried": result.num_tried,
            "seed": bench.seed,
            "search": asdict(self.search),
            "held_out": _compare_held_out(bench, self._candidate(result.factors), others),
        }

    def with_search_result(self, file: Path) -> LongRope:
        return LongRope(factors=str(file), layers=self.layers)

    def _starts(self, rotary: Rotary, factor: float) -> dict[str, Float[np.ndarray, " half"]]:
        """Long factors that give the frequencies of three known methods, which the search starts from."""
        plain = rotary.frequencies()
        return {
            "yarn": plain / Yarn().frequencies(rotary, factor),
            "pi": np.full(len(plain), factor),
            "ntk": plain / NtkAware().frequencies(rotary, factor),
        }

    def _candidate(self, long_factor: Float[np.ndarray, " half"]) -> LongRope:
        return LongRope(short_factor=self.short_factor, long_factor=long_factor.tolist(), layers=self.layers)

    @cached_property
    def _read(self) -> dict[str, list[float]]:
        """The two lists of the file `factors`."""
        if self.factors is None:
            return {}
        remedy = "use {key}=<run directory>/longrope.json"
        try:
            content = json.loads(Path(self.factors).read_text())
            return {name: [float(value) for value in content[name]] for name in ("short_factor", "long_factor")}
        except OSError as fault:
            raise ConfigError("factors", self.factors, f"cannot be read: {fault.strerror}", remedy) from fault
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as fault:
            rule = "does not contain the lists short_factor and long_factor of numbers"
            raise ConfigError("factors", self.factors, rule, remedy) from fault


def _compare_held_out(bench: Bench, position: LongRope, others: dict[str, Scaling]) -> dict[str, Any]:
    """Mean losses on documents unseen by search and training, and the gain over each other position."""
    losses = bench.held_out_losses(position)
    table: dict[str, Any] = {"n": len(losses)}
    if not len(losses):
        return table
    table["found"] = float(losses.mean())
    for word, other in others.items():
        gains = bench.held_out_losses(other) - losses
        error = float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else None
        table[word] = {"loss": float((losses + gains).mean()), "gain": float(gains.mean()), "standard_error": error}
    return table


def _check_range(key: str, values: list[float] | None, where: str = "") -> None:
    """Raises `ConfigError` for a factor that is not a finite number of at least 1."""
    for value in values or ():
        rule = f"must be a finite number, at least 1{where}"
        require(math.isfinite(value) and value >= 1, key, value, rule, "correct that factor")
