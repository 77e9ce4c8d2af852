"""What people get wrong, driven through the real command: one line that helps, the right exit code, nothing written and nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.commands import run_here
from tests.conftest import TINY, TINY_MODEL

ROOT = Path(__file__).parents[1]
SHORT = [*TINY, *TINY_MODEL, "context/curriculum=fixed", "evaluation=[curve]", "evaluation.curve.length=128"]
SHORT = [word for word in SHORT if not word.startswith("evaluation.needle")]
UNREACHABLE = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    lines: list[str]  # on standard error
    seconds: float  # of the processor, since another program may have the other core

    def reported(self, code: int) -> str:
        """The one line on standard error."""
        assert self.code == code, self
        assert len(self.lines) == 1, self.lines
        assert self.lines[0].startswith("error: ")
        return self.lines[0].removeprefix("error: ")


def environment(cwd: Path, torch: bool, **extra: str) -> dict[str, str]:
    folders = [str(ROOT / "src")]
    if not torch:
        fake = cwd / "without" / "torch"
        fake.mkdir(parents=True, exist_ok=True)
        (fake / "__init__.py").write_text('raise ImportError("torch was imported")')
        folders.insert(0, str(fake.parent))
    kept = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    return kept | {"PYTHONPATH": os.pathsep.join(folders), "HF_HOME": str(cwd / "hub")} | extra


def command(script: str, *words: str, cwd: Path, torch: bool = False, **extra: str) -> Ended:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *words],
        cwd=cwd,
        env=environment(cwd, torch, **extra),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Ended(done.returncode, done.stdout, done.stderr.splitlines(), seconds)


Command = Callable[..., Ended]


@pytest.fixture
def here(tmp_path: Path) -> Command:
    """Like `command`, in this process and in the test's folder."""

    def here(script: str, *words: str, torch: bool = False) -> Ended:
        result = run_here(script, *words, cwd=tmp_path, torch=torch)
        return Ended(result.code, result.out, result.err.splitlines(), 0.0)

    return here


def contents(folder: Path) -> dict[str, str]:
    """Every file below the folder and the hash of what it holds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# -- what is visible in the configuration ----------------------------------------------------------------------------------

VISIBLE = [
    ("stepz=10", "stepz=10: there is no such key; did you mean steps?"),
    ("+stepz=10", "stepz=10: there is no such key; did you mean steps?"),
    ("lr=3e-4", "lr=0.0003: there is no such key; did you mean optimizer.lr?"),
    ("optimizer.learning_rat=1", "optimizer.learning_rat=1: there is no such key; there are optimizer.beta1"),
    ("context.position.beta_fas=1", "context.position.beta_fas=1: there is no such key; did you mean context.position.beta_fast?"),
    ("+context.position.beta_fas=1", "context.position.beta_fas=1: there is no such key; did you mean context.position.beta_fast?"),
    ("context.curriculum.base.stepz=1", "did you mean context.curriculum.base.steps?"),
    ("context.factor=8", "context.factor=8: there is no such key; there are context.target_length"),
    ("optimizer.momentum=0.9", "optimizer.momentum=0.9: is a key of optimizer=muon, which is not chosen; add optimizer=muon"),
    ("model.source=./checkpoint", "model.source=./checkpoint: is a key of model=pretrained, which is not chosen; add model=pretrained"),
    ("steps=many", "steps=many: must be an integer"),
    ("steps=1e3", "steps=1000.0: must be an integer; use steps=1000"),
    ("overwrite=maybe", "overwrite=maybe: must be true or false; write it like overwrite=true"),
    ("evaluation.needle.depths=0.5", "must be a list, each element a number; write it like evaluation.needle.depths=[0.5]"),
    ("context.position=yarn", "context.position=yarn: is a group, and groups are written with slashes; use context/position=yarn"),
    ("optimizer=Adam", "optimizer=Adam: there is no such choice; did you mean adamw?"),
    ("evaluation=[curv]", "evaluation=[curv]: there is no choice curv; did you mean curve?"),
    ("evaluation=none", "evaluation=none: there is no such choice; use evaluation=[]"),
    ("context=null", "context=null: is not a choice; choose one of abf"),
    ("experiment=smok", "experiment=smok: there is no such choice; did you mean smoke?"),
    ("~optimizer", "optimizer: is required; remove ~optimizer"),
    ("data=[text,jsonl]", "data=[text,jsonl]: takes one word; use data=text, or compare them in a sweep: -m data=text,jsonl"),
    ("optimizer=[adamw,muon]", "optimizer=[adamw,muon]: takes one word; use optimizer=adamw"),
    ("context.target_length=100k", "context.target_length=100k: must be an integer; use context.target_length=102400"),
    ("context.target_length=far", "context.target_length=far: must be an integer; write it like context.target_length=4096"),
    ("batch_tokens=8k", "batch_tokens=8k: must be an integer; use batch_tokens=8192"),
    ("steps=1.5k", "steps=1.5k: must be an integer; use steps=1500"),
    ("data.path=x", "data.path=x: is a key of data=text or data=jsonl or data=hub, which is not chosen; add data=text"),
    ("--steps=0", "steps=0: must be at least 1"),
    ("~steps", "steps: is required; remove ~steps"),
    ("context.target_length=128", "context.target_length=128: is below the model's original length of 256"),
    ("context.target_length=0", "context.target_length=0: must be at least 1"),
    ("steps=0", "steps=0: must be at least 1"),
    ("optimizer.lr=-1", "optimizer.lr=-1.0: must be above 0; use optimizer.lr=0.001"),
    ("optimizer.lr=inf", "optimizer.lr=inf: must be a finite number"),
    ("model.original_length=-256", "model.original_length=-256: must be at least 1"),
    ("evaluation.curve.length=0", "evaluation.curve.length=0: must be at least 2"),
    ("batch_tokens=512", "batch_tokens=512: is less than one sequence of 1024 tokens; use batch_tokens=1024 or more"),
    ("tuning=lora tuning.rank=0", "tuning.rank=0: must be at least 1; use tuning.rank=8"),
    ("tuning=lora tuning.alpha=0", "tuning.alpha=0.0: must be above 0; use tuning.alpha=16"),
    ("tuning=lora_plus tuning.dropout=1", "tuning.dropout=1.0: must be in [0, 1); use tuning.dropout=0"),
    ("tuning=lora tuning.dropout=-0.1", "tuning.dropout=-0.1: must be in [0, 1)"),
    ("tuning=lora tuning.targets=[]", "tuning.targets=[]: is empty; use tuning.targets=null"),
    ("tuning=lora tuning.targets=q_proj", "must be a list, each element a word or null; write it like tuning.targets=[q_proj]"),
    ("tuning.rank=4", "tuning.rank=4: is a key of tuning=lora or tuning=lora_plus, which is not chosen; add tuning=lora"),
    ("context/position=longrope context.position.long_factor=[1,2]", "long_factor=[1.0,2.0]: must have a factor for each of the 8 pairs"),
    ("context/position=longrope context.position.long_factor=[1,nan]", "long_factor=nan: must be a finite number, at least 1"),
    ("context/position=longrope context.position.factors=missing.json", "factors=missing.json: cannot be read: No such file"),
    ("context/position=abf context.position.theta=5000", "theta=5000: must be above the model's own theta of 10000"),
    ("model=bert objective.mask_ratio=0", "objective.mask_ratio=0.0: must be above 0 and below 1; use objective.mask_ratio=0.15"),
    ("model=bert objective.mask_ratio=1", "objective.mask_ratio=1.0: must be above 0 and below 1; use objective.mask_ratio=0.15"),
    ("objective=masked", "objective=masked: needs a model that fills in what is masked, which model=gpt does not; use objective=causal"),
    (
        "model=bert objective=causal",
        "objective=causal: needs a model that reads from left to right, which model=bert does not; use objective=masked",
    ),
    ("model=bert model.dropout=1", "model.dropout=1.0: must be at least 0 and below 1; use model.dropout=0.0"),
    ("model=bert model.dim=129", "model.dim=129: must be a multiple of num_heads=2; use model.dim=128"),
    ("seed=-1", "seed=-1: must be at least 0; use seed=0"),
    ("precision=fp16", "precision=fp16: must be one of fp32, bf16"),
    ("device=nonsense", "device=nonsense: must be auto, cpu, cuda or cuda:<number>; use device=auto"),
    ("name=a/b", "name=a/b: must be part of a directory name, without a slash"),
    ("hydra.run.dir=", "hydra.run.dir: is empty"),
    ("tracking.mode=offlin", "tracking.mode=offlin: must be online, offline or null"),
    ("data=text", "data.path=???: must be given; add data.path=…"),
    ("data=text data.path=missing.txt", "data.path=missing.txt: no such file or folder; give data.path a file"),
    ("data=text data.path=~/x.txt", "data.path=~/x.txt: ~ is not expanded inside an override; write data.path=/"),
    ("model=pretrained model.source=/nowhere", "model.source=/nowhere: there is no such folder; name a folder written by save_pretrained"),
    (
        "model=pretrained model.source=.",
        "model.source=.: is not a checkpoint: it contains no config.json; name a folder written by save_pretrained",
    ),
    ("context=interpolate", "context/position=interpolate: needs a table of learned positions, which model=gpt does not have; use"),
    (
        "model=gpt2 context=yarn",
        "context/position=yarn: needs rotary positions, which model=gpt2 does not have; use context/position=interpol",
    ),
    ("model=gpt2 context=none", "use context/position=interpolate, or context=none with context.target_length=256"),
    (
        "model=bert context=pose",
        "context/position=yarn: needs rotary positions, which model=bert does not have; use context/position=interpol",
    ),
    (
        "model=gpt2 context=tile context.target_length=1000",
        "context.target_length=1000: must be a multiple of the original length of 256: context/position=tile repeats the table; "
        "use context.target_length=1024",
    ),
    ("context=pose data.isolate_documents=true", "context/sampling=pose: cannot be had with data.isolate_documents=true"),
    ("context=randomized context/attention=self_extend", "context/sampling=randomized: cannot be had with context/attention=self_extend"),
    ("context=pose context.target_length=256", "is the model's original length: context/sampling=pose has no further positions to sample"),
    ("steps=[1", "command line=steps=[1: is not an override; write key=value"),
    ("--lr 3e-4", "command line=unrecognized arguments: --lr: is not understood; write key=value"),
    ("steps=10,20", "steps=10,20: is several values, which make a sweep; add -m to the command line, or quote what is one value"),
]


@pytest.mark.parametrize(("words", "line"), VISIBLE, ids=[words for words, _ in VISIBLE])
def test_a_configuration_that_cannot_work_is_one_line(words: str, line: str, here: Command, tmp_path: Path) -> None:
    reported = here("train", *words.split()).reported(2)
    assert reported.startswith(line) or line in reported
    assert not (tmp_path / "runs").exists()


EVALUATE = [
    ("", "checkpoint=???: must be given"),
    ("chekpoint=x", "chekpoint=x: there is no such key; did you mean checkpoint?"),
    ("checkpoint=/nowhere", "checkpoint=/nowhere: there is no such folder; name a folder written by save_pretrained"),
    ("checkpoint=.", "checkpoint=.: is not a checkpoint: it contains no config.json"),
]


@pytest.mark.parametrize(("words", "line"), EVALUATE, ids=[words or "nothing" for words, _ in EVALUATE])
def test_evaluate_refuses_a_folder_without_checkpoint(words: str, line: str, here: Command, tmp_path: Path) -> None:
    assert here("evaluate", *words.split()).reported(2).startswith(line)
    assert not (tmp_path / "runs").exists()


def test_the_traceback_is_shown_on_request(tmp_path: Path) -> None:
    ended = command("train", "steps=0", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert ended.code == 2
    assert ended.lines[0] == "Traceback (most recent call last):"
    assert ended.lines[-1].startswith("error: steps=0")


# -- data ------------------------------------------------------------------------------------------------------------------

DATA = [
    ("text", "empty.txt", b"", "is empty; leave it out"),
    ("text", "binary.txt", b"\0\1\2" * 99, "is a binary file; leave it out, or convert it to plain text"),
    ("text", "latin.txt", b"caf\xe9", "is not UTF-8 (byte 3); convert it"),
    ("jsonl", "broken.jsonl", b'{"text": "good"}\n{"text": "bad\n', ":2: this line is not JSON"),
    ("jsonl", "other.jsonl", b'{"txt": "good"}\n', "has no such field (it has: txt); use data.field=txt"),
    ("text", "short.txt", b"too short for one sequence", "a sequence needs 1025 tokens, the training text has 2"),
]


@pytest.mark.parametrize(("data", "name", "content", "line"), DATA, ids=[name for _, name, _, _ in DATA])
def test_unusable_data_is_refused(data: str, name: str, content: bytes, line: str, here: Command, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    reported = here("train", f"data={data}", f"data.path={name}").reported(2)
    assert line in reported
    assert reported.startswith("data.") or name == "short.txt"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"cache"}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("model=pretrained model.source=nobody/nothing", "model.source=nobody/nothing"),
        ("tokenizer=pretrained tokenizer.source=nobody/nothing", "tokenizer.source=nobody/nothing"),
        ("data=hub data.path=nobody/nothing", "data.path=nobody/nothing"),
    ],
    ids=["model", "tokenizer", "data"],
)
def test_the_hub_without_a_network_is_told_at_once(words: str, key: str, tmp_path: Path) -> None:
    ended = command("train", *words.split(), cwd=tmp_path, **UNREACHABLE)
    assert ended.reported(2).startswith(f"{key}: no such folder here, and the hub cannot be reached to look there; connect to the network")
    assert not list(tmp_path.glob("runs/gpt-*")) + list(tmp_path.glob("runs/pretrained-*"))


def test_a_checkpoint_is_called_what_it_was_called_on_the_command_line(tmp_path: Path) -> None:
    reported = command("evaluate", "checkpoint=nobody/nothing", cwd=tmp_path, **UNREACHABLE).reported(2)
    assert reported.startswith("checkpoint=nobody/nothing: no such folder here, and the hub cannot be reached")
    reported = command("evaluate", 'checkpoint="runs/a,b"', cwd=tmp_path, **UNREACHABLE).reported(2)
    assert reported.startswith("checkpoint=runs/a,b: ")
    assert reported.endswith("choose another checkpoint with checkpoint=<hub id or folder>")


# -- folders ---------------------------------------------------------------------------------------------------------------


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
            assert reported.endswith("; choose another name=, or start over with overwrite=true")
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
    assert f"the last good checkpoint is {tmp_path}/runs/gpt-yarn-default/checkpoints/{kept[-1]}" in reported


def test_a_signal_before_training_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.txt")
    words = ["data=text", "data.path=endless.txt"]
    for number in (signal.SIGINT, signal.SIGTERM):
        started = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            cwd=tmp_path,
            env=environment(tmp_path, False),
            stderr=subprocess.PIPE,
            text=True,
            # A shell that starts the tests in the background hands on that SIGINT is ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        for _ in range(200):
            if (tmp_path / "runs" / "gpt-yarn-default" / ".lock").exists():
                break
            time.sleep(0.05)
        time.sleep(0.3)
        started.send_signal(number)
        _, error = started.communicate(timeout=20)
        assert started.returncode == 3
        assert error == f"error: stopped by {number.name}; run the same command to resume\n"
        assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_signal_in_training_stops_after_a_checkpoint(text_folder: Path, tmp_path: Path) -> None:
    words = [*TINY, *TINY_MODEL, "context.curriculum.base.steps=100000", "data=text", f"data.path={text_folder}"]
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=tmp_path,
        env=environment(tmp_path, True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    # The line with which the base begins; its first checkpoint is far away.
    assert started.stdout.readline().startswith("base: ")
    started.send_signal(signal.SIGINT)
    _, error = started.communicate(timeout=60)
    assert started.returncode == 3
    assert error.startswith("error: stopped by SIGINT at step ")
    assert error.count("\n") == 1
    assert list(tmp_path.glob("runs/bases/gpt-32-*/checkpoints/step-*"))
    assert not (tmp_path / "runs" / "gpt-yarn-default").exists()
