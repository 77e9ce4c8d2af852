"""Data, folders, checkpoints and runs that cannot be used: one line that helps, the right exit code, nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Command, contents
from tests.conftest import TINY, TINY_MODEL

SHORT = [*TINY, *TINY_MODEL, "context/curriculum=fixed", "evaluation=[curve]", "evaluation.curve.length=128"]


# -- data ------------------------------------------------------------------------------------------------------------------

DATA = [
    ("text", "empty.txt", b"", "is empty; leave it out"),
    ("text", "binary.txt", b"\0\1\2" * 99, "is a binary file; leave it out, or convert it to plain text"),
    ("text", "latin.txt", b"caf\xe9", "is not UTF-8 (byte 3); convert it"),
    ("jsonl", "broken.jsonl", b'{"text": "good"}\n{"text": "bad\n', ":2: this line is not JSON"),
    ("jsonl", "other.jsonl", b'{"txt": "good"}\n', "has no such field (it has: txt); use data.field=txt"),
    ("text", "short.txt", b"too short for one sequence", "a sequence needs 1025 tokens, the training text has 2"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("data", "name", "content", "line"), DATA, ids=[name for _, name, _, _ in DATA])
def test_unusable_data_is_refused(data: str, name: str, content: bytes, line: str, here: Command, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    reported = here("train", f"data={data}", f"data.path={name}").reported(2)
    assert line in reported
    assert reported.startswith("data.") or name == "short.txt"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"cache"}


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is wanted, at an address where nothing answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("model=pretrained model.source=nobody/nothing", "model.source=nobody/nothing"),
        ("tokenizer=pretrained tokenizer.source=nobody/nothing", "tokenizer.source=nobody/nothing"),
        ("data=hub data.path=nobody/nothing", "data.path=nobody/nothing"),
    ],
    ids=["model", "tokenizer", "data"],
)
def test_a_hub_that_cannot_be_reached_is_reported(words: str, key: str, here: Command, unreachable: None, tmp_path: Path) -> None:
    reported = here("train", *words.split()).reported(2)
    assert reported.startswith(f"{key}: no such folder here, and the hub cannot be reached to look there; connect to the network")
    assert not list(tmp_path.glob("runs/gpt-*")) + list(tmp_path.glob("runs/pretrained-*"))


@pytest.mark.slow
def test_errors_name_a_checkpoint_by_its_key(here: Command, unreachable: None) -> None:
    reported = here("evaluate", "checkpoint=nobody/nothing").reported(2)
    assert reported.startswith("checkpoint=nobody/nothing: no such folder here, and the hub cannot be reached")
    reported = here("evaluate", 'checkpoint="runs/a,b"').reported(2)
    assert reported.startswith("checkpoint=runs/a,b: ")
    assert reported.endswith("choose another checkpoint with checkpoint=<hub id or folder>")


# -- folders ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_below_a_file_is_refused(here: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file/run: cannot be written (Not a directory)" in here("train", "hydra.run.dir=file/run").reported(2)
    assert "data.cache=file/cache/tokens: cannot be written" in here("train", "data.cache=file/cache").reported(2)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.slow
def test_a_read_only_folder_is_refused(disk: Path, here: Command) -> None:
    (disk / "run").mkdir()
    remount(disk, "ro")
    for folder in ("disk/new", "disk/run"):
        reported = here("train", f"hydra.run.dir={folder}").reported(2)
        assert "cannot be written (Read-only file system); choose another folder with hydra.run.dir=" in reported


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_loses_nothing(disk: Path, text_folder: Path, here: Command, tmp_path: Path) -> None:
    words = [*SHORT, "steps=12", "evaluation=[]", "hydra.run.dir=disk/run", "training.checkpoint_steps=1", "training.keep_checkpoints=99"]
    words = [word for word in words if not word.startswith("evaluation.")] + ["data=text", f"data.path={text_folder}"]
    reported = here("train", *words, torch=True).reported(1)
    assert "No space left on device" in reported
    assert "free some space" in reported
    last = sorted((disk / "run" / "checkpoints").glob("step-*"))[-1]
    manifest = json.loads((last / "manifest.json").read_text())
    assert {name: digest for name, digest in contents(last).items() if name in manifest} == manifest
    remount(disk, "size=64m")
    ended = here("train", *words, torch=True)
    assert ended.code == 0
    assert f"resuming from {last.name}" in ended.out
    metrics = (disk / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == list(range(1, 13))


# -- checkpoints -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoints_that_cannot_be_used_are_refused(text_folder: Path, here: Command, tmp_path: Path) -> None:
    """In one sweep, since a job that is refused does not keep the next from its turn."""
    from safetensors.torch import load_file, save_file
    from transformers import GPT2Config, GPT2LMHeadModel

    from elongate.data.tokenizer.byte import ByteTokenizer

    sound = tmp_path / "sound"
    GPT2LMHeadModel(
        GPT2Config(vocab_size=257, n_positions=32, n_embd=8, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
    ).save_pretrained(sound)
    ByteTokenizer().save(sound)
    for name in ("truncated", "flipped", "lacking"):
        shutil.copytree(sound, tmp_path / name)
    weights = (sound / "model.safetensors").read_bytes()
    (tmp_path / "truncated" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (tmp_path / "flipped" / "model.safetensors").write_bytes(weights[:12] + bytes([weights[12] ^ 255]) + weights[13:])
    tensors = load_file(sound / "model.safetensors")
    lost = tensors.pop("transformer.ln_f.weight")
    assert lost.numel() == 8
    save_file(tensors, tmp_path / "lacking" / "model.safetensors", metadata={"format": "pt"})
    before = contents(sound)

    words = [
        "model=pretrained",
        "context.target_length=64",
        "tracking=none",
        "steps=1",
        "batch_tokens=256",
        "data=text",
        f"data.path={text_folder}",
    ]
    ended = here("train", "-m", *words, "model.source=./truncated,./flipped,./lacking,./sound", "context=yarn,none", torch=True)
    assert ended.code == 2
    lines = ended.lines
    assert len(lines) == 8
    for number, name in enumerate(("truncated", "flipped", "lacking")):
        for line in lines[2 * number : 2 * number + 2]:
            assert line.startswith(f"error: model.source=./{name}: is damaged: ")
            assert line.endswith("; fetch or save the checkpoint again")
    assert "transformer.ln_f.weight is missing" in lines[4]
    assert lines[6].startswith(
        "error: context/position=yarn: needs rotary positions, which model=pretrained does not have; use context/position=interpolate"
    )
    assert lines[7].startswith("error: context/position=none: needs positions that are computed and not looked up in a table")
    assert lines[7].count("context.target_length=32") == 1
    assert {path.name for path in (tmp_path / "runs" / "sweep-default").iterdir()} == {"multirun.yaml"}
    assert contents(sound) == before


def test_a_damaged_configuration_of_a_checkpoint_is_refused(here: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    reported = here("train", "model=pretrained", "model.source=.", "tokenizer=byte").reported(2)
    assert reported.startswith("model.source=.: is damaged: its config.json cannot be read")


@pytest.mark.slow
def test_a_missing_device_is_refused(text_folder: Path, here: Command, tmp_path: Path) -> None:
    reported = here("train", *TINY, *TINY_MODEL, "data=text", f"data.path={text_folder}", "device=cuda", torch=True).reported(2)
    assert reported == "device=cuda: there is no CUDA device that torch can use here; use device=cpu or device=auto"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"cache"}


# -- runs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_finishes_the_jobs_that_are_sound_and_a_run_keeps_its_folder(text_folder: Path, here: Command, tmp_path: Path) -> None:
    words = [*SHORT, "data=text", f"data.path={text_folder}"]
    ended = here("train", "-m", *words, "optimizer.lr=abc,1e-3", "hydra.sweep.subdir=lr-${optimizer.lr}", torch=True)
    assert ended.reported(2) == "optimizer.lr=abc: must be a number; use optimizer.lr=0.0005"
    sweep = tmp_path / "runs" / "sweep-default"
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"lr-0.001"}
    assert json.loads((sweep / "lr-0.001" / "results.json").read_text())["finished"]

    # A finished run, and one whose training is not: neither is touched by another configuration.
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(sweep / "lr-0.001" / "config.yaml", unfinished)
    (unfinished / ".lock").touch()
    for folder in (sweep / "lr-0.001", unfinished):
        before = contents(folder)
        one = [f"hydra.run.dir={folder}"]
        swept = ["-m", f"hydra.sweep.dir={folder.parent}", f"hydra.sweep.subdir={folder.name}"]
        for way in (one, swept):
            reported = here("train", *way, *words, "optimizer.lr=1e-3", "steps=4", "seed=7").reported(2)
            rule = "belongs to another configuration (seed=0 there, 7 here; steps=3 there, 4 here)"
            assert reported.startswith(f"hydra.run.dir={folder}: {rule}")
            assert reported.endswith("; use another name=, or start over with overwrite=true")
            assert contents(folder) == before
    reported = here("evaluate", "checkpoint=unfinished").reported(2)
    assert reported == "checkpoint=unfinished: is a run whose training is not finished; run its training command again first"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_step_data_and_last_checkpoint(text_folder: Path, here: Command, tmp_path: Path) -> None:
    words = [*SHORT, "steps=5", "optimizer.lr=1e30", "training.clip_norm=null", "training.checkpoint_steps=1"]
    reported = here("train", *words, "data=text", f"data.path={text_folder}", torch=True).reported(1)
    kept = sorted(path.name for path in tmp_path.glob("runs/gpt-yarn-default/checkpoints/step-*"))
    step = int(kept[-1].removeprefix("step-"))
    assert reported.startswith(("the loss is nan", "the loss is inf", "the norm of the gradient is"))
    assert f"at step {step + 1} (stage extend, sequences {2 * step} to {2 * step + 1} of length 128)" in reported
    assert f"the newest checkpoint is {tmp_path}/runs/gpt-yarn-default/checkpoints/{kept[-1]}" in reported
