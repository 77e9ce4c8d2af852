"""A run may die at any moment: the same command resumes it, and ends with the weights and figures of an undisturbed run.

`ELONGATE_KILLS=20 pytest tests/training/test_resume.py -k sigkill -s` kills more often and says where.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import IO, Any

import pytest
from tests.interrupts import SignalAfter

from elongate.errors import Stopped
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("ELONGATE_KILLS", "6"))
COMMAND = [
    "experiment=smoke",
    "steps=12",
    "context.curriculum.base.steps=16",
    "training.checkpoint_steps=2",
    "evaluation.curve.num_sequences=4",
    "evaluation.needle.num_samples=2",
    "evaluation.needle.depths=[0,1]",
    "data=text",
]
# Where a run can be killed: the time after the first of these lines, up to the next.
PLACES = {
    "start": "",
    "base": r"base 64  step",
    "base export": r"base 64  step 16/16|base: reusing",
    "training": r"extend 256  step",
    "evaluation": r"position yarn: active",
    "report": r"measuring needle, extended|resuming from step-000028",
}
LAST_LINE = r"Loss in nats"


class Program:
    """`python train.py …`, under way until the block ends; what it says is heard line by line."""

    def __init__(self, cwd: Path, *arguments: str, without_torch: Path | None = None) -> None:
        path = str(ROOT / "src")
        if without_torch is not None:
            (without_torch / "torch").mkdir(parents=True, exist_ok=True)
            (without_torch / "torch/__init__.py").write_text("raise ImportError('torch was imported')")
            path = f"{without_torch}:{path}"
        # One thread: threads that wait for each other on busy cores take many times as long.
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        cwd.mkdir(exist_ok=True)
        self.began, self.said, self.complaints = time.monotonic(), [], []
        self._heard, self._ended = threading.Condition(), False
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments, *COMMAND],
            cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        listening = ((self.process.stdout, self.said), (self.process.stderr, self.complaints))
        self._threads = [threading.Thread(target=self._hear, args=pair) for pair in listening]
        for thread in self._threads:
            thread.start()

    said: list[tuple[float, str]]
    complaints: list[tuple[float, str]]

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *fault: Any) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Its exit code."""
        code = self.process.wait()
        for thread in self._threads:
            thread.join()
        return code

    def has_said(self, pattern: str) -> bool:
        return any(re.match(pattern, line) for _, line in [(0.0, ""), *self.said])

    def time_of(self, pattern: str) -> float:
        """Seconds from the start to the first line like this; for an empty pattern the start itself."""
        return next(moment for moment, line in [(0.0, ""), *self.said] if re.match(pattern, line))

    def hear(self, pattern: str) -> bool:
        """Waits until it says a line like this; False if it ends without."""
        with self._heard:
            self._heard.wait_for(lambda: self.has_said(pattern) or self._ended)
        return self.has_said(pattern)

    def see(self, folder: Path, pattern: str) -> None:
        """Waits until there is a file like this."""
        while not any(folder.glob(pattern)):
            assert self.process.poll() is None, f"it ended before {pattern} was there: {self.stderr}"
            time.sleep(0.001)

    @property
    def stderr(self) -> str:
        return "".join(line for _, line in self.complaints)

    def _hear(self, stream: IO[str], lines: list[tuple[float, str]]) -> None:
        with stream:
            for line in stream:
                with self._heard:
                    lines.append((time.monotonic() - self.began, line))
                    self._heard.notify()
        if stream is self.process.stdout:
            with self._heard:
                self._ended = True
                self._heard.notify()


def finished(cwd: Path, *arguments: str) -> Program:
    with Program(cwd, *arguments) as program:
        assert program.end() == 0, program.stderr
    return program


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(v) for key, v in value.items() if key not in ("seconds", "tokens_per_second", "peak_memory_bytes")}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run comes to, but for times and memory."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert not list(folder.parent.glob("*/**/*.partial"))
    assert (folder / "report.html").exists()
    tables = {path.name: path.read_text() for path in sorted(folder.glob("*.csv"))}
    results = without_times(json.loads((folder / "results.json").read_text()))
    weights = (folder / "model/model.safetensors").read_bytes()
    return {"weights": weights, "metrics": without_times(lines), "results": results} | tables


def newest(checkpoints: Path) -> Path:
    return max(checkpoints.glob("step-*"))


@pytest.fixture(scope="module", autouse=True)
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What all runs here are trained on."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        (folder / f"{i:02d}.txt").write_text("".join(f"line {n} of document {i}: {n * i % 97}\n" for n in range(120)))
    COMMAND.append(f"data.path={folder}")
    yield
    COMMAND.pop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path, dict[str, Any]]:
    cwd = tmp_path_factory.mktemp("undisturbed")
    return finished(cwd), cwd, outcome(cwd / "runs/gpt-yarn-smoke")


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(undisturbed: tuple[Program, Path, dict[str, Any]], tmp_path: Path) -> None:
    model, _, expected = undisturbed
    random, killed = Random(KILLS), []
    begins = [model.time_of(line) for line in (*PLACES.values(), LAST_LINE)]
    for number in range(KILLS):
        life, index = divmod(number, len(PLACES))
        cwd = tmp_path / str(life)
        with Program(cwd) as program:
            # What was done before the last kill is not done again, so its lines do not come again.
            program.hear("|".join(list(PLACES.values())[index:]))
            time.sleep(random.uniform(0, begins[index + 1] - begins[index]))
            program.process.kill()
        if program.end() == -signal.SIGKILL:
            last = program.said[-1][1].strip()[:50] if program.said else "nothing"
            partial = [str(path.relative_to(cwd / "runs")) for path in cwd.glob("runs/**/*.partial")]
            killed.append(f"{list(PLACES)[index]}: after “{last}”, being written: {partial}")
        if index == len(PLACES) - 1 or number == KILLS - 1:
            finished(cwd)
            assert outcome(cwd / "runs/gpt-yarn-smoke") == expected
    print("\n".join(["", *killed]))
    assert len(killed) >= 0.8 * KILLS  # a run that is over before its kill is as good as any


@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_killed_run_is_named_and_changes_nothing(undisturbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs/gpt-yarn-smoke"
    with Program(tmp_path) as program:
        program.see(tmp_path, "runs/bases/*/checkpoints/step-000006")
    (base,) = tmp_path.glob("runs/bases/*/checkpoints")
    truncated = newest(base)
    os.truncate(truncated / "tensors.safetensors", 1000)
    with Program(tmp_path) as program:
        program.see(folder, "checkpoints/step-000022")
    program.end()
    assert f"{truncated.name} is damaged (tensors.safetensors" in program.stderr
    altered = newest(folder / "checkpoints")
    content = bytearray((altered / "tensors.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (altered / "tensors.safetensors").write_bytes(content)
    last = finished(tmp_path)
    assert f"{altered.name} is damaged (tensors.safetensors" in last.stderr
    assert last.has_said("resuming from step-")
    assert outcome(folder) == undisturbed[2]


@pytest.mark.slow
def test_a_signal_ends_the_step_writes_a_checkpoint_and_changes_nothing(undisturbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs/gpt-yarn-smoke"

    def stop(number: int, line: str, *arguments: str) -> str:
        with Program(tmp_path, *arguments) as program:
            assert program.hear(line)
            os.killpg(program.process.pid, number)  # as a terminal does: to all processes of the command
            assert program.end() == 3, program.stderr
            (told,) = [line for _, line in program.complaints if line.startswith("error:")]
            assert "run the same command to resume" in told
            return told

    def assert_saved(told: str, directory: Path) -> None:
        step = int(re.search(r"at step (\d+)", told)[1])
        assert newest(directory / "checkpoints").name == f"step-{step:06d}"
        assert len((directory / "metrics.jsonl").read_text().splitlines()) == step

    told = stop(signal.SIGTERM, r"base 64  step")
    assert "SIGTERM" in told
    (base,) = tmp_path.glob("runs/bases/*-*")
    assert_saved(told, base)
    told = stop(signal.SIGINT, r"extend 256  step", "tracking=wandb")
    assert "SIGINT" in told
    assert_saved(told, folder)
    assert "in the evaluation" in stop(signal.SIGTERM, r"measuring needle, after")
    assert json.loads((folder / "results.json").read_text())["measured"] == ["curve/after"]
    finished(tmp_path)
    assert outcome(folder) == undisturbed[2]


@pytest.mark.slow
def test_a_finished_run_is_reported_without_torch(undisturbed: tuple[Program, Path, dict[str, Any]], tmp_path: Path) -> None:
    _, cwd, expected = undisturbed
    folder = cwd / "runs/gpt-yarn-smoke"
    before = (folder / "model/model.safetensors").stat().st_mtime_ns
    with Program(cwd, without_torch=tmp_path) as program:
        assert program.end() == 0, program.stderr
    assert program.has_said(".* is already finished")
    assert program.has_said(LAST_LINE)
    assert (folder / "model/model.safetensors").stat().st_mtime_ns == before
    assert outcome(folder) == expected


@pytest.mark.slow
def test_strategies_of_a_sweep_share_base_and_tokens_and_a_seed_gives_the_same_weights(undisturbed: Any, tmp_path: Path) -> None:
    program = finished(tmp_path, "-m", "context=none,pi,yarn")
    (base,) = tmp_path.glob("runs/bases/*-*")
    trained = [line for _, line in program.said if line.startswith("base: ")]
    assert ["base: reusing" in line for line in trained] == [False, True, True]
    outcomes = [outcome(path.parent) for path in sorted(tmp_path.glob("runs/sweep-smoke/*/results.json"))]
    assert [o["results"]["strategy"]["context"] for o in outcomes] == ["none", "pi", "yarn"]
    assert len({o["results"]["data"]["consumed_tokens_sha256"] for o in outcomes}) == 1
    assert len({o["weights"] for o in outcomes}) == 3
    base_lines = without_times([json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()])
    assert all(o["metrics"][:16] == base_lines for o in outcomes)
    assert outcomes[2] == undisturbed[2]


@pytest.mark.slow
def test_of_two_runs_at_once_one_trains_the_base_and_a_folder_takes_one(undisturbed: Any, tmp_path: Path) -> None:
    with Program(tmp_path, "name=a", "seed=1") as a, Program(tmp_path, "name=b", "seed=1") as b:
        trains = "base: .* shared by"
        while not (a.has_said(trains) or b.has_said(trains)):
            assert a.process.poll() is None, a.stderr
            assert b.process.poll() is None, b.stderr
            time.sleep(0.01)
        first, name = (a, "a") if a.has_said(trains) else (b, "b")
        # Held up, so that the other comes to wait for the base, and this one's folder is in use.
        first.process.send_signal(signal.SIGSTOP)
        with Program(tmp_path, f"name={name}", "seed=1", without_torch=tmp_path / "none") as refused:
            assert refused.end() == 2
        assert len(refused.complaints) == 1
        assert "is being worked on by another process" in refused.stderr
        first.process.send_signal(signal.SIGCONT)
        assert a.end() == 0, a.stderr
        assert b.end() == 0, b.stderr
    assert sorted(program.has_said("base: reusing") for program in (a, b)) == [False, True]
    outcomes = [outcome(tmp_path / f"runs/gpt-yarn-{name}") for name in "ab"]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["weights"] != undisturbed[2]["weights"]
    hashes = [o["results"]["data"]["consumed_tokens_sha256"] for o in (outcomes[0], undisturbed[2])]
    assert hashes[0] != hashes[1]


# -- moments that a clock hardly ever finds, in one process ------------------------------------------------------------


class Death(BaseException):
    """The process is gone: nothing that would tidy up does."""


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Sets how many syncs, renames and removals are left before death; from then on none is carried out."""
    left: list[int | None] = [None]

    def mortal(act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise Death
            return act(*arguments, **options)

        return wrapped

    for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))

    def set_left(acts: int | None) -> None:
        left[0] = acts

    yield set_left
    gc.collect()  # of what the dead left open


SHORT = ["steps=3", "training.checkpoint_steps=1", "context.curriculum.base.steps=3", "evaluation.needle.lengths=[64]", "data=text"]


def started(job: Any, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    directory = RunDirectory(cwd / "runs/run")
    directory.path.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(cwd)
    with directory.locked():
        run(job, directory)
    return directory


DEAD = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # they close no files


@DEAD
@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora_plus"])
def test_death_between_any_two_acts_on_files_changes_nothing(
    tuning: str,
    build_tiny: Callable[..., Any],
    text_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    live: Callable[[int | None], None],
) -> None:
    job = build_tiny(*SHORT, f"data.path={text_folder}", f"tuning={tuning}")
    expected = outcome(started(job, tmp_path / "undisturbed", monkeypatch).path)
    random, deaths = Random(0), 0
    while True:
        live(random.randrange(40))
        try:
            directory = started(job, tmp_path / "mortal", monkeypatch)
            break
        except Death:
            deaths += 1
            assert deaths < 100, "it does not come any further"
        finally:
            live(None)
    assert deaths > 4
    assert outcome(directory.path) == expected


@DEAD
@pytest.mark.slow
def test_death_while_a_run_is_overwritten_leaves_nothing_of_it_to_the_next(
    build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: Callable[[int | None], None]
) -> None:
    short = [line for line in SHORT if "base" not in line] + [f"data.path={text_folder}", "context/curriculum=fixed"]
    started(build_tiny(*short), tmp_path / "overwritten", monkeypatch)
    job = build_tiny(*short, "overwrite=true", "optimizer.lr=0.01")
    expected = outcome(started(job, tmp_path / "undisturbed", monkeypatch).path)
    for acts in range(6):
        shutil.copytree(tmp_path / "overwritten", tmp_path / f"mortal-{acts}")
        live(acts)
        with pytest.raises(Death):
            started(job, tmp_path / f"mortal-{acts}", monkeypatch)
        live(None)
        assert outcome(started(job, tmp_path / f"mortal-{acts}", monkeypatch).path) == expected


@pytest.mark.parametrize("looks", range(5))
def test_a_signal_between_two_looks_still_finds_its_step_in_a_checkpoint(
    looks: int, build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build_tiny("context/curriculum=fixed", "data=text", f"data.path={text_folder}", "steps=9")
    monkeypatch.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(looks))
    with pytest.raises(Stopped, match="at step") as stopped:
        started(job, tmp_path, monkeypatch)
    step = int(re.search(r"at step (\d+)", str(stopped.value))[1])
    assert (tmp_path / f"runs/run/checkpoints/step-{step:06d}").exists()


def test_damaged_checkpoints_do_not_take_the_place_of_new_ones(
    build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build_tiny("context/curriculum=fixed", "data=text", f"data.path={text_folder}", "steps=9", "training.checkpoint_steps=2")
    for looks in (5, 0):
        monkeypatch.setattr("elongate.training.run.Interrupt", lambda looks=looks: SignalAfter(looks))
        with pytest.raises(Stopped) as stopped:
            started(job, tmp_path, monkeypatch)
        for path in tmp_path.glob("runs/run/checkpoints/*/manifest.json"):
            path.write_text("")
    (step,) = re.findall(r"at step (\d+)", str(stopped.value))
    assert (tmp_path / f"runs/run/checkpoints/step-{int(step):06d}").exists()


def test_a_signal_while_another_process_trains_the_base_ends_the_wait(
    build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build_tiny(*SHORT, f"data.path={text_folder}")
    started(job, tmp_path, monkeypatch)
    (path,) = tmp_path.glob("runs/bases/*-*")
    shutil.rmtree(path / "model")
    shutil.rmtree(tmp_path / "runs/run")
    monkeypatch.setattr("elongate.training.run.Interrupt", lambda: SignalAfter(0))
    with RunDirectory(path).locked():
        unending = threading.Timer(20, os.kill, (os.getpid(), signal.SIGINT))
        unending.start()
        try:
            with pytest.raises((Stopped, KeyboardInterrupt), match="SIGTERM"):
                started(job, tmp_path, monkeypatch)
        finally:
            unending.cancel()
            unending.join()
