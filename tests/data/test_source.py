"""Sources: their documents, the train/validation split, and their error messages."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

import pytest

from elongate.data.hub import Hub
from elongate.data.jsonl import Jsonl
from elongate.data.source import PIECE, held_out_documents, pieces
from elongate.data.stdlib import Stdlib
from elongate.data.text import Text
from elongate.errors import ConfigError


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    written = {"b.txt": "bé", "a.txt": "a", "deep/c.md": "c", ".hidden.txt": "no", ".git/x.txt": "no"}
    for name, content in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "empty.marker").touch()
    return folder


def texts(source) -> dict[str, str]:
    return {document.name: document.text for document in source.documents()}


def test_stdlib_is_the_standard_library_without_its_tests():
    documents = texts(Stdlib())
    assert {"os.py", "asyncio/tasks.py", "json/decoder.py"} < set(documents)
    assert list(documents) == sorted(documents)
    parts = {part for name in documents for part in name.split("/")[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert documents["os.py"] == Path(sys.modules["os"].__file__).read_text(encoding="utf-8")


def test_text_reads_files_globs_and_folders_each_file_once(books):
    everything = {"a.txt": "a", "b.txt": "bé", "deep/c.md": "c"}
    assert texts(Text(path=str(books))) == everything
    assert texts(Text(path=f"{books}/*.txt")) == {"a.txt": "a", "b.txt": "bé"}
    assert texts(Text(path=f"{books}/**/*.md")) == {"deep/c.md": "c"}
    assert texts(Text(path=[f"{books}/b.txt", str(books)])) == everything
    assert list(texts(Text(path=[f"{books}/b.txt", str(books)]))) == ["b.txt", "a.txt", "deep/c.md"]


def test_a_fingerprint_depends_on_content_and_names_but_not_on_the_folder(books, tmp_path):
    before = Text(path=str(books)).fingerprint()
    moved = books.rename(tmp_path / "moved")
    assert Text(path=str(moved)).fingerprint() == before
    (moved / "a.txt").write_text("A")
    changed = Text(path=str(moved)).fingerprint()
    (moved / "a.txt").rename(moved / "z.txt")
    assert len({before, changed, Text(path=str(moved)).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("binary.txt", b"PK\0\1", "is a binary file"),
        ("latin.txt", "café".encode("latin1"), "is not UTF-8 (byte 3)"),
        ("empty.txt", b"", "is empty"),
        ("missing.txt", None, "no such file or folder"),
        ("missing*.txt", None, "matches no file"),
    ],
)
def test_a_file_that_is_not_text_is_named(tmp_path, name, content, rule):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        list(Text(path=str(tmp_path / name)).documents())
    assert (caught.value.key, str(caught.value.value), caught.value.rule) == ("path", str(tmp_path / name), rule)


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="contains no text file"):
        list(Text(path=str(tmp_path)).documents())


def test_jsonl_has_one_document_per_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n\n{"body": ""}\n{"body": "half \\ud800"}\n')
    (tmp_path / "notes.txt").write_text("not a record")
    assert texts(Jsonl(path=str(tmp_path), field="body")) == {"a.jsonl:1": "one", "a.jsonl:4": "half ?"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "x"', ["this line is not JSON", "column"]),
        (b'{"text": "\xff"}', ["this line is not UTF-8"]),
        (b'{"content": "x", "id": 1}', ["no such field", "content, id", "use field=content"]),
        (b'{"text": 3}', ["has a int in this field"]),
        (b'["x"]', ["is a list, not an object"]),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ConfigError) as caught:
        list(Jsonl(path=str(path)).documents())
    assert all(word in str(caught.value) for word in [f"{path}:2", *words]), str(caught.value)


ROWS = [{"text": f"row {index}", "id": index} for index in range(5)]


def write_rows(folder: Path, form: str) -> None:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    folder.mkdir()
    if form == "json":
        (folder / "train.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif form == "csv":
        pyarrow.csv.write_csv(pyarrow.Table.from_pylist(ROWS), folder / "train.csv")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "train.parquet")


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.slow
@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by `datasets`, where a csv stream ends early
@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_hub_reads_local_folders_as_a_whole_and_as_a_stream(tmp_path, form):
    write_rows(tmp_path / "rows", form)
    path = str(tmp_path / "rows")
    assert texts(Hub(path=path)) == {str(row["id"]): row["text"] for row in ROWS}
    assert texts(Hub(path=path, streaming=True, num_documents=3)) == {"0": "row 0", "1": "row 1", "2": "row 2"}
    assert texts(Hub(path=path, split="train[3:]")) == {"0": "row 3", "1": "row 4"}
    gc.collect()


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "test"}, ["path=", "cannot be loaded", "test", "train"]),
        ({"name": "english"}, ["path=", "cannot be loaded", "english", "default"]),
        ({"field": "txt"}, ["field=txt", "text, id", "use field=text"]),
        ({"field": "id"}, ["field=id", "has a int"]),
    ],
)
def test_hub_reports_what_a_folder_lacks(tmp_path, settings, words):
    write_rows(tmp_path / "rows", "json")
    with pytest.raises(ConfigError) as caught:
        list(Hub(path=str(tmp_path / "rows"), **settings).documents())
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_of_hub_depends_on_the_files_and_every_setting(tmp_path):
    write_rows(tmp_path / "rows", "json")
    path = str(tmp_path / "rows")
    settings = [{}, {"name": "a"}, {"split": "test"}, {"field": "id"}, {"num_documents": 2}]
    fingerprints = {Hub(path=path, **each).fingerprint() for each in settings}
    (tmp_path / "rows" / "train.json").write_text('{"text": "other"}')
    fingerprints |= {Hub(path=path).fingerprint(), *(Hub(path="o/n", **each).fingerprint() for each in settings)}
    fingerprints.add(Hub(path="o/n", revision="main").fingerprint())
    assert len(fingerprints) == 12


def test_a_hub_id_without_network_fails_at_once(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    start = time.monotonic()
    with pytest.raises(ConfigError, match="path=owner/name: no such folder here, and the hub cannot be reached"):
        list(Hub(path="owner/name").documents())
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("path", ["./missing", "/missing/folder", "~/missing", "a/b/c"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(path):
    with pytest.raises(ConfigError, match="no such folder; give path"):
        list(Hub(path=path).documents())


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"validation_ratio": 0.0}, "validation_ratio"),
        ({"validation_ratio": 1.0}, "validation_ratio"),
        ({"num_documents": 0}, "num_documents"),
        ({"streaming": True}, "num_documents"),
        ({"path": ".", "revision": "main"}, "revision"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, key):
    with pytest.raises(ConfigError) as caught:
        Hub(**{"path": "owner/name", **settings})
    assert caught.value.key == key


@pytest.mark.parametrize(("count", "ratio", "expected"), [(1, 0.5, 0), (2, 0.1, 1), (2, 0.9, 1), (100, 0.1, 10)])
def test_the_split_holds_out_the_ratio_but_never_all(count, ratio, expected):
    assert held_out_documents([f"n{index}" for index in range(count)], ratio).sum() == expected


def test_the_split_depends_on_names_not_on_the_order():
    names = [f"n{index}" for index in range(50)]
    forward, backward = held_out_documents(names, 0.2), held_out_documents(names[::-1], 0.2)
    assert (forward == backward[::-1]).all()


def test_train_texts_exclude_the_validation_split(books):
    source = Text(path=str(books), validation_ratio=0.4)
    names, held_out = list(texts(source)), held_out_documents(list(texts(source)), 0.4)
    expected = [texts(source)[name] for name, out in zip(names, held_out, strict=True) if not out]
    assert list(source.train_texts()) == expected
    (books / "long.txt").write_text("x" * 100)
    assert list(Text(path=str(books / "long.txt"), validation_ratio=0.25).train_texts()) == ["x" * 75]


def test_pieces_join_to_the_text_and_end_between_lines():
    text = "word word\n\n  indented\nnext\n" * (PIECE // 10)
    cut = list(pieces(text))
    assert "".join(cut) == text
    assert len(cut) > 1
    assert all(piece.endswith("\n") and not piece.endswith("\n\n") for piece in cut[:-1])


@pytest.mark.parametrize("line", ["x" * 90, "x x", "x\r\n", "x\n\n", "x \n "])
def test_pieces_of_a_text_without_such_line_ends_are_bounded(line):
    text = line * (3 * PIECE // len(line))
    cut = list(pieces(text))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 2 * PIECE
    assert all(piece[0].isspace() for piece in cut[1:]) or " " not in line + line.replace("\n", " ")
