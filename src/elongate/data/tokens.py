"""The token cache: documents are tokenized once, stored flat on disk, and split into train and validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from elongate.data.cache import cached_folder
from elongate.data.source import PIECE, Source, held_out_documents, pieces
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError

FORMAT = 1  # of the cached files; raise it whenever they or their tokens change


@dataclass(frozen=True)
class Tokens:
    """One split: document i is `flat[bounds[i]:bounds[i + 1]]`; its last token is `end_of_document`."""

    flat: np.ndarray  # uint16 or uint32, memory-mapped
    bounds: np.ndarray  # int64, one more than there are documents

    def __len__(self) -> int:
        return len(self.flat)


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
    parts = [FORMAT, source.fingerprint(), tokenizer.fingerprint, source.validation_ratio]
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = Path(source.cache) / "tokens" / fingerprint[:32]
    cached_folder(folder, lambda folder: _write(source, tokenizer, folder))
    return Corpus(_open(folder, "train"), _open(folder, "validation"), fingerprint)


def _open(folder: Path, split: str) -> Tokens:
    return Tokens(np.load(folder / f"{split}.npy", mmap_mode="r"), np.load(folder / f"{split}.bounds.npy"))


def _write(source: Source, tokenizer: Tokenizer, folder: Path) -> None:
    # The number of held-out documents is only known after the last one, so write one file in order and then split it.
    ordered = folder / "ordered.bin"
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    end = np.array([tokenizer.end_of_document], dtype=dtype)
    names, stops = _write_in_order(source, tokenizer, ordered, end)
    if not names:
        raise ConfigError("", type(source).__name__.lower(), "has no documents", "choose another source with {key}=…")
    flat, length = np.asarray(np.memmap(ordered, dtype, mode="r")), stops[-1]
    if len(names) == 1:
        cut = length - 1 - max(1, round((length - 1) * source.validation_ratio))
        _save(folder, "train", [np.append(flat[:cut], end)], np.array([cut + 1]), dtype)
        _save(folder, "validation", [flat[cut:]], np.array([length - cut]), dtype)
    else:
        bounds = np.array([0, *stops])
        held_out = held_out_documents(names, source.validation_ratio)
        for split, mask in (("train", ~held_out), ("validation", held_out)):
            documents = (flat[bounds[index] : bounds[index + 1]] for index in np.flatnonzero(mask))
            _save(folder, split, documents, np.diff(bounds)[mask], dtype)
    ordered.unlink()


def _write_in_order(source: Source, tokenizer: Tokenizer, path: Path, end: np.ndarray) -> tuple[list[str], list[int]]:
    """Writes the tokens of all documents, each followed by `end`. Returns their names and where each one stops."""
    names: list[str] = []
    stops: list[int] = []
    length = 0
    with path.open("wb") as file:
        for batch in _batches(source):
            for (name, _), ids in zip(batch, tokenizer.encode_batch([text for _, text in batch]), strict=True):
                length += file.write(ids.astype(end.dtype).data) // end.itemsize
                if name is not None:
                    length += file.write(end.data) // end.itemsize
                    names.append(name)
                    stops.append(length)
    return names, stops


def _batches(source: Source) -> Iterator[list[tuple[str | None, str]]]:
    """Pieces of text in order, about four long ones per batch. The last piece of a document carries its name."""
    batch: list[tuple[str | None, str]] = []
    characters = 0
    for document in source.documents():
        for text in pieces(document.text):
            if characters >= 4 * PIECE:
                yield batch
                batch, characters = [], 0
            batch.append((None, text))
            characters += len(text)
        batch[-1] = (document.name, text)
    yield batch


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
