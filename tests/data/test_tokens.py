"""The token cache: its contents, and that it stays sound if processes collide or files are damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from elongate.data.source import Document, Source, held_out_documents
from elongate.data.text import Text
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import load_corpus
from elongate.errors import ConfigError, RunError


@dataclass(kw_only=True)
class Fixed(Source):
    texts: dict[str, str]
    reads: list[str] = field(default_factory=list)

    def documents(self) -> Iterator[Document]:
        self.reads.append("documents")
        for name, text in self.texts.items():
            yield Document(name, text)

    def fingerprint(self) -> str:
        return repr(self.texts)


TEXTS = {f"document {index}": f"{index} häßlich\n" * index for index in range(1, 30)}


def texts_of(tokens) -> list[str]:
    rows = [tokens.flat[start:stop] for start, stop in zip(tokens.bounds[:-1], tokens.bounds[1:], strict=True)]
    assert all(row[-1] == 256 and (row[:-1] < 256).all() for row in rows)
    return [ByteTokenizer().decode(row) for row in rows]


def test_every_document_is_in_its_split_in_order(tmp_path):
    corpus = load_corpus(Fixed(texts=TEXTS, cache=str(tmp_path), validation_ratio=0.3), ByteTokenizer())
    held_out = dict(zip(TEXTS, held_out_documents(list(TEXTS), 0.3), strict=True))
    assert texts_of(corpus.train) == [text for name, text in TEXTS.items() if not held_out[name]]
    assert texts_of(corpus.validation) == [text for name, text in TEXTS.items() if held_out[name]]
    assert corpus.train.flat.dtype == np.uint16
    assert isinstance(corpus.train.flat, np.memmap)
    assert corpus.train.bounds.dtype == np.int64


def test_a_vocabulary_above_uint16_is_stored_in_uint32(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.vocab_size = 1 << 17
    tokenizer.end_of_document = 1 << 16
    corpus = load_corpus(Fixed(texts=TEXTS, cache=str(tmp_path)), tokenizer)
    assert corpus.train.flat.dtype == np.uint32
    assert corpus.train.flat[-1] == 1 << 16


def test_a_single_document_holds_out_its_end(tmp_path):
    corpus = load_corpus(Fixed(texts={"one": "0123456789"}, cache=str(tmp_path), validation_ratio=0.3), ByteTokenizer())
    assert (texts_of(corpus.train), texts_of(corpus.validation)) == (["0123456"], ["789"])


def test_no_documents_at_all_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="has no documents"):
        load_corpus(Fixed(texts={}, cache=str(tmp_path)), ByteTokenizer())
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_long_documents_are_tokenized_in_pieces_to_the_same_tokens(tmp_path):
    text = "line of tëxt\n" * 200_000
    corpus = load_corpus(Fixed(texts={"long": text, "short": "x"}, cache=str(tmp_path)), ByteTokenizer())
    assert sorted([*texts_of(corpus.train), *texts_of(corpus.validation)], key=len) == ["x", text]


def test_the_second_call_reads_the_cache_and_each_setting_has_its_own(tmp_path):
    source = Fixed(texts=TEXTS, cache=str(tmp_path))
    first, second = load_corpus(source, ByteTokenizer()), load_corpus(source, ByteTokenizer())
    assert source.reads == ["documents"]
    assert first.fingerprint == second.fingerprint
    source.validation_ratio = 0.5
    assert load_corpus(source, ByteTokenizer()).fingerprint != first.fingerprint
    source.texts = source.texts | {"new": "new"}
    load_corpus(source, ByteTokenizer())
    assert len(source.reads) == 3


@pytest.mark.parametrize("damage", ["truncate", "remove a file", "remove the manifest", "break the manifest"])
def test_a_damaged_cache_is_rebuilt(tmp_path, damage):
    source = Fixed(texts=TEXTS, cache=str(tmp_path))
    whole = texts_of(load_corpus(source, ByteTokenizer()).train)
    flat, manifest = next(tmp_path.rglob("train.npy")), next(tmp_path.rglob("manifest.json"))
    if damage == "truncate":
        os.truncate(flat, flat.stat().st_size - 2)
    elif damage == "remove a file":
        flat.unlink()
    elif damage == "remove the manifest":
        manifest.unlink()
    else:
        manifest.write_text("[")
    assert texts_of(load_corpus(source, ByteTokenizer()).train) == whole
    assert len(source.reads) == 2


BUILD = """
import sys
from elongate.data.text import Text
from elongate.data.tokenizer.bpe import Bpe
from elongate.data.tokens import load_corpus
source = Text(path=sys.argv[1], cache=sys.argv[2])
sys.stdin.read()  # both processes start together
corpus = load_corpus(source, Bpe(vocab_size=300).fit(source))
print(corpus.fingerprint, len(corpus.train), len(corpus.validation), hash(corpus.train.flat.tobytes()))
"""


@pytest.mark.slow
def test_two_processes_build_one_sound_cache(tmp_path):
    books, cache = tmp_path / "books", tmp_path / "cache"
    books.mkdir()
    for name, text in TEXTS.items():
        (books / f"{name}.txt").write_text(text * 50, encoding="utf-8")
    command = [sys.executable, "-c", BUILD, str(books), str(cache)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    for process in processes:
        process.stdin.close()
        process.stdin = None
    (one, faults), (other, more_faults) = (process.communicate(timeout=60) for process in processes)
    assert one == other != "", faults + more_faults
    for kind in ("tokens", "tokenizers"):
        assert len([path for path in (cache / kind).iterdir() if path.is_dir()]) == 1


def test_the_remains_of_a_killed_build_are_not_used(tmp_path):
    source = Fixed(texts=TEXTS, cache=str(tmp_path))
    corpus = load_corpus(source, ByteTokenizer())
    folder = next(path for path in (tmp_path / "tokens").iterdir() if path.is_dir())
    whole = texts_of(corpus.train)
    folder.rename(folder.with_name(f".{folder.name}.1.partial"))  # as if killed just before the rename
    assert texts_of(load_corpus(source, ByteTokenizer()).train) == whole
    assert not list(tmp_path.rglob(".*.partial"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written .*choose another folder with cache=<folder>"):
        load_corpus(Fixed(texts=TEXTS, cache=str(tmp_path / "file")), ByteTokenizer())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_in_one_line(tmp_path, monkeypatch):
    opened = Path.open

    def open_on_full_disk(path: Path, *arguments, **keywords):
        return opened(Path("/dev/full") if path.name == "train.npy" else path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(RunError, match="the disk is full"):
        load_corpus(Fixed(texts=TEXTS, cache=str(tmp_path)), ByteTokenizer())


def test_text_files_in_another_folder_give_the_same_corpus(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for name in ("a", "b"):
            (tmp_path / place / name).write_text(name)
    here, there = (
        load_corpus(Text(path=str(tmp_path / place), cache=str(tmp_path / f"{place} cache")), ByteTokenizer())
        for place in ("here", "there")
    )
    assert here.fingerprint == there.fingerprint
