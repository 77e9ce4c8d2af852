"""Several sources in given shares of the tokens, for example long documents next to short ones.

Sequences come from one source each. Long documents alone cost a model its skill on short texts: published mixtures have
34% (OLMo 3) to 75% (Qwen2.5-1M) of their tokens in long documents. A source that is small for its share repeats, which
teaches little beyond four times (Muennighoff et al. 2023, arXiv:2305.16264): more than `max_repeats` is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from hashlib import sha256

from elongate.data.source import Document, Source
from elongate.errors import ConfigError, inside, require

_COMMON = ("validation_ratio", "add_bos", "cache")  # one setting for all sources
_OWN = ("isolate_documents", "packing", "min_length", "max_length")  # a setting of each source


@dataclass(kw_only=True)
class Mixture(Source):
    """Sources with shares. The held-out documents are those of all sources."""

    sources: dict[str, Source]  # by a name of your choice: +data@data.sources.<name>=<word>
    shares: dict[str, float]  # of the tokens, by name; they are divided by their sum, and 0 leaves a source out
    max_repeats: float = 4.0  # most times that the training may read a source, at least 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.sources) > 0, "sources", "{}", "is empty", "add sources with +data@data.sources.<name>=<word>")
        rule = f"must name the sources: {', '.join(self.sources)}"
        example = "{" + ",".join(f"{name}:1" for name in self.sources) + "}"
        require(self.shares.keys() == self.sources.keys(), "shares", ",".join(self.shares), rule, f"use {{key}}='{example}'")
        for name, share in self.shares.items():
            require(share >= 0, f"data.shares.{name}", share, "must be at least 0", "use {key}=0.5")
        require(sum(self.shares.values()) > 0, "shares", [*self.shares.values()], "must not all be 0", f"use {{key}}='{example}'")
        require(self.max_repeats >= 1, "max_repeats", self.max_repeats, "must be at least 1", "use {key}=4")
        defaults = {field.name: field.default for field in fields(Source)}
        for name in _OWN:
            value = getattr(self, name)
            require(value == defaults[name], name, value, "is a setting of each source", f"use data.sources.<name>.{name}")
        for name, source in self.sources.items():
            require(not source.parts, f"data.sources.{name}", source.word, "is a mixture itself", "name its sources here")
            for option in _COMMON:
                value, key = getattr(source, option), f"data.sources.{name}.{option}"
                require(value == defaults[option], key, value, "is one setting for all sources", f"use data.{option}")

    @property
    def parts(self) -> dict[str, Source]:
        common = {name: getattr(self, name) for name in _COMMON}
        return {name: replace(source, **common) for name, source in self.sources.items()}

    @property
    def part_shares(self) -> dict[str, float]:
        return self.shares

    @property
    def isolates(self) -> bool:
        return any(source.isolates for source in self.sources.values())

    def documents(self) -> Iterator[Document]:
        for name, source in self.parts.items():
            with inside(f"data.sources.{name}"):
                yield from (replace(document, name=f"{name}/{document.name}") for document in source.documents())

    def train_texts(self) -> Iterator[str]:
        for name, source in self.parts.items():
            with inside(f"data.sources.{name}"):
                yield from source.train_texts()

    def fingerprint(self) -> str:
        total = sha256(b"mixture")
        for name, source in self.parts.items():
            with inside(f"data.sources.{name}"):
                total.update(json.dumps([name, source.fingerprint(), source.min_length, source.max_length]).encode())
        return total.hexdigest()

    def check_amount(self, available: dict[str, int], needed: int, trained: int) -> None:
        total = sum(self.shares.values())
        for name, share in self.shares.items():
            if share == 0:
                continue
            tokens, key = available[name], f"data.sources.{name}"
            if tokens < needed and self.sources[name].packing != "best_fit":
                rule = f"a sequence needs {needed} tokens, and this source has {tokens} for training"
                raise ConfigError(key, self.sources[name].word, rule, "use a shorter length, more text, or packing=best_fit")
            repeats = trained * share / total / tokens
            if repeats > self.max_repeats:
                rule = f"its share of {trained:,} tokens reads the source of {tokens:,} tokens {repeats:.3g} times"
                most = share * self.max_repeats / repeats
                remedy = f"use a share below {most:.2g}, fewer steps, more text, or data.max_repeats={int(repeats) + 1}"
                raise ConfigError(f"data.shares.{name}", share, rule, remedy)
