"""Files are complete or absent, also after a crash: the order of writing, syncing and renaming."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from elongate.atomic import remove, write_json, written_aside


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every fsync and rename, with the name of the file or folder, in the order of the calls."""
    recorded: list[tuple[str, str]] = []
    names: dict[int, str] = {}
    opened, synced, renamed = os.open, os.fsync, Path.rename

    def open_(path: Path, *arguments: int) -> int:
        descriptor = opened(path, *arguments)
        names[descriptor] = Path(path).name
        return descriptor

    def fsync(descriptor: int) -> None:
        recorded.append(("sync", names[descriptor]))
        synced(descriptor)

    def rename(path: Path, target: Path) -> Path:
        recorded.append(("rename", target.name))
        return renamed(path, target)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    return recorded


def test_a_file_is_synced_before_the_rename_and_its_parent_after(calls: list[tuple[str, str]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_json(folder / "results.json", {"loss": 1.5})
    (file_synced, file), renamed, parent_synced = calls
    assert (file_synced, renamed, parent_synced) == ("sync", ("rename", "results.json"), ("sync", "run"))
    assert file.startswith(".results.json.")


def test_every_file_of_a_folder_is_synced_before_the_rename(calls: list[tuple[str, str]], tmp_path: Path) -> None:
    with written_aside(tmp_path / "model") as aside:
        (aside / "inner").mkdir(parents=True)
        for name in ("weights", "inner/config"):
            (aside / name).write_text(name)
    renamed = calls.index(("rename", "model"))
    assert {name for kind, name in calls[:renamed]} >= {"weights", "inner", "config"}
    assert calls[renamed + 1 :] == [("sync", tmp_path.name)]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    write_json(target, {"step": 1})

    def fail() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise RuntimeError("power failure")

    with pytest.raises(RuntimeError, match="power failure"):
        fail()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"loss": math.nan})
    assert json.loads(target.read_text()) == {"step": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".results.json.123.partial").write_text("half")
    write_json(tmp_path / "results.json", {"text": "caf\xe9 →"})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == {"text": "caf\xe9 →"}


def test_a_folder_replaces_an_older_one(tmp_path: Path) -> None:
    for version in ("old", "new"):
        with written_aside(tmp_path / "model") as aside:
            aside.mkdir()
            (aside / version).touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]
    remove(tmp_path / "model")
    remove(tmp_path / "model")  # a missing one is not an error
    assert list(tmp_path.iterdir()) == []
