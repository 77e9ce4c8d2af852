"""The token cache: documents are tokenized once, stored flat on disk, and split into train and validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from elongate.data.cache import cached_folder
from elongate.data.source import PIECE, Document, Source, held_out_documents
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError, inside

FORMAT = 3  # of the cached files; raise it whenever they or their tokens change


@dataclass(frozen=True)
class Tokens:
    """One split: document i is `flat[bounds[i]:bounds[i + 1]]`; its last token is `end_of_document`."""

    flat: np.ndarray  # uint16 or uint32, memory-mapped
    bounds: np.ndarray  # int64, one more than there are documents
    beginning: tuple[int, ...] = ()  # the first tokens of every document, usually BOS or none
    scored: np.ndarray | None = None  # bool, False at a token that is no target; None: all are
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # the documents of each source of a mixture: first, one after last

    def __len__(self) -> int:
        return len(self.flat)

    def part(self, name: str) -> Tokens:
        """The tokens of one source of a mixture."""
        first, last = self.parts[name]
        bounds = self.bounds[first : last + 1]
        words = slice(int(bounds[0]), int(bounds[-1]))
        return Tokens(self.flat[words], bounds - bounds[0], self.beginning, None if self.scored is None else self.scored[words])


@dataclass(frozen=True)
class Corpus:
    """The tokens of both splits."""

    train: Tokens
    validation: Tokens
    fingerprint: str  # equal for equal documents, tokenizer and split


def load_corpus(source: Source, tokenizer: Tokenizer) -> Corpus:
    """The tokens of a source, read from the cache if it contains them.

    The split is by document (see `held_out_documents`), and each split keeps the order of the source. For a source
    with a single document, the last `validation_ratio` of its tokens are held out.
    """
    limits = [source.min_length, source.max_length]
    parts = [FORMAT, source.fingerprint(), tokenizer.fingerprint, tokenizer.beginning, source.validation_ratio, limits]
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = Path(source.cache) / "tokens" / fingerprint[:32]
    cached_folder(folder, lambda folder: _write_parts(source, tokenizer, folder) if source.parts else _write(source, tokenizer, folder))
    train, validation = (_open(folder, split, tokenizer.beginning) for split in ("train", "validation"))
    return Corpus(train, validation, fingerprint)


def _open(folder: Path, split: str, beginning: tuple[int, ...]) -> Tokens:
    scored, parts = folder / f"{split}.scored.npy", folder / f"{split}.parts.json"
    return Tokens(
        np.load(folder / f"{split}.npy", mmap_mode="r"),
        np.load(folder / f"{split}.bounds.npy"),
        beginning,
        np.load(scored, mmap_mode="r") if scored.exists() else None,
        json.loads(parts.read_text(encoding="utf-8")) if parts.exists() else {},
    )


def _write_parts(source: Source, tokenizer: Tokenizer, folder: Path) -> None:
    """The documents of each source of a mixture, one after the other."""
    corpora = {}
    for name, part in source.parts.items():
        with inside(f"data.sources.{name}"):
            corpora[name] = load_corpus(part, tokenizer)
    for split in ("train", "validation"):
        tokens: dict[str, Tokens] = {name: getattr(corpus, split) for name, corpus in corpora.items()}
        lengths = np.concatenate([np.diff(one.bounds) for one in tokens.values()])
        _save(folder, split, (np.ascontiguousarray(one.flat) for one in tokens.values()), lengths, _dtype(tokenizer))
        if any(one.scored is not None for one in tokens.values()):
            marks = (np.ones(len(one), dtype=bool) if one.scored is None else one.scored for one in tokens.values())
            _save_array(folder / f"{split}.scored.npy", marks, int(lengths.sum()), np.dtype(bool))
        ends = np.cumsum([len(one.bounds) - 1 for one in tokens.values()]).tolist()
        ranges = dict(zip(tokens, zip([0, *ends], ends, strict=False), strict=True))
        (folder / f"{split}.parts.json").write_text(json.dumps(ranges), encoding="utf-8")


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _write(source: Source, tokenizer: Tokenizer, folder: Path) -> None:
    # The number of held-out documents is only known after the last one, so write one file in order and then split it.
    ordered = folder / "ordered.bin"
    dtype = _dtype(tokenizer)
    beginning, end = np.array(tokenizer.beginning, dtype=dtype), np.array([tokenizer.end_of_document], dtype=dtype)
    names, stops = _write_in_order(source, tokenizer, ordered, beginning, end)
    if not names:
        raise ConfigError("", type(source).__name__.lower(), "has no documents", "choose another source with {key}=…")
    flat, length = np.asarray(np.memmap(ordered, dtype, mode="r")), stops[-1]
    if len(names) == 1:
        words = length - len(beginning) - 1
        cut = length - 1 - max(1, round(words * source.validation_ratio))
        _within_limits(source, np.array([cut + 1]), np.array([True]))
        _save(folder, "train", [np.append(flat[:cut], end)], np.array([cut + 1]), dtype)
        _save(folder, "validation", [beginning, flat[cut:]], np.array([len(beginning) + length - cut]), dtype)
    else:
        bounds = np.array([0, *stops])
        held_out = held_out_documents(names, source.validation_ratio)
        for split, mask in (("train", _within_limits(source, np.diff(bounds), ~held_out)), ("validation", held_out)):
            documents = (flat[bounds[index] : bounds[index + 1]] for index in np.flatnonzero(mask))
            _save(folder, split, documents, np.diff(bounds)[mask], dtype)
    ordered.unlink()


def _within_limits(source: Source, lengths: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The training documents that are neither too short nor too long. Raises `ConfigError` if there is none."""
    most = np.inf if source.max_length is None else source.max_length
    kept = train & (lengths >= source.min_length) & (lengths <= most)
    if not kept.any():
        shortest, longest = int(lengths[train].min()), int(lengths[train].max())
        key = "min_length" if longest < source.min_length else "max_length"
        rule = f"leaves no training document: they have {shortest} to {longest} tokens"
        raise ConfigError(key, getattr(source, key), rule, f"use {{key}}={longest}")
    return kept


def _write_in_order(
    source: Source, tokenizer: Tokenizer, path: Path, beginning: np.ndarray, end: np.ndarray
) -> tuple[list[str], list[int]]:
    """Writes the tokens of all documents between `beginning` and `end`. Returns their names and where each one stops."""
    names: list[str] = []
    stops: list[int] = []
    length = 0
    with path.open("wb") as file:
        for name, blocks in _encoded(source, tokenizer):
            for ids in chain([beginning], blocks, [end]):
                length += file.write(ids.astype(end.dtype).data) // end.itemsize
            names.append(name)
            stops.append(length)
    return names, stops


def _encoded(source: Source, tokenizer: Tokenizer) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """The name and the tokens of each document: short documents many at a time, a long one in blocks."""
    batch: list[Document] = []
    characters = 0
    for document in source.documents():
        is_long = len(document.text) > PIECE
        if is_long or characters >= 4 * PIECE:
            yield from _together(batch, tokenizer)
            batch, characters = [], 0
        if is_long:
            yield document.name, tokenizer.encode_blocks(document.text)
        else:
            batch.append(document)
            characters += len(document.text)
    yield from _together(batch, tokenizer)


def _together(documents: list[Document], tokenizer: Tokenizer) -> Iterator[tuple[str, list[np.ndarray]]]:
    for document, ids in zip(documents, tokenizer.encode_batch([one.text for one in documents]), strict=True):
        yield document.name, [ids]


def _save(folder: Path, split: str, documents: Iterable[np.ndarray], lengths: np.ndarray, dtype: np.dtype) -> None:
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    _save_array(folder / f"{split}.npy", documents, int(bounds[-1]), dtype)
    _save_array(folder / f"{split}.bounds.npy", [bounds], len(bounds), bounds.dtype)


def _save_array(path: Path, parts: Iterable[np.ndarray], length: int, dtype: np.dtype) -> None:
    # np.save needs the whole array in memory and does not report a full disk.
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.data)
