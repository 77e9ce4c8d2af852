from __future__ import annotations

import json
import os
import re
import shlex
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from elongate import tracking
from elongate.errors import ConfigError
from elongate.tracking import Background, Nothing, TensorBoard, Tracking, View, Wandb

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

CONFIGURATION = {"seed": 0, "model": {"dim": 128, "rope_theta": 10000.0}, "evaluation": ["curve"]}
SCALARS = {
    "finished": True,
    "strategy/context": "yarn",
    "strategy/factor": 4.0,
    "strategy/proof/attention_factor": 1.1386,
    "budget/tokens": 491520,
    "curve/before/0-256": 1.8,
    "needle/after/margin/256": 1.5,
}


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: Patch) -> Iterator[None]:
    """No account, no settings of W&B, no proxy; W&B reads all of that once in a session, so each test has its own."""
    for key in list(os.environ):
        if key.startswith("WANDB_") or key.lower().endswith("_proxy") or key == "NETRC":
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def line(step: int) -> dict[str, Any]:
    return {"step": step, "stage": "extend", "length": 1024, "loss": 4.0 / step, "lr": 1e-3}


def lines(first: int, last: int) -> list[dict[str, Any]]:
    return [line(step) for step in range(first, last + 1)]


def track(choice: Tracking, directory: Path, history: list[dict[str, Any]], rest: list[dict[str, Any]]) -> None:
    directory.mkdir(exist_ok=True)
    tracker = choice.start(directory, "default", CONFIGURATION, history)
    for new in rest:
        tracker.log(new)
    tracker.report(SCALARS, {"curve": png(directory)}, {"curve": table(directory)})
    tracker.finish(0)


def png(directory: Path) -> Path:
    from matplotlib.figure import Figure

    Figure(figsize=(3, 2), dpi=50).savefig(directory / "curve.png", format="png")
    return directory / "curve.png"


def table(directory: Path) -> Path:
    (directory / "curve.csv").write_text("row,start,loss\nbefore,0,1.8\nbefore,256,\n")
    return directory / "curve.csv"


@dataclass
class OfflineRun:
    """What a .wandb file holds."""

    identity: str = ""
    configuration: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def train(self, key: str) -> dict[int, float]:
        return {step: row[f"train/{key}"] for step, row in self.history.items() if f"train/{key}" in row}

    def logged(self, key: str) -> dict[str, Any]:
        parts = [(name, row[name]) for row in self.history.values() for name in row if name.startswith(f"{key}/")]
        return {name.removeprefix(f"{key}/"): value for name, value in parts}


def offline_runs(directory: Path) -> list[OfflineRun]:
    import wandb

    wandb.teardown()  # W&B's process closes its files when it ends, if not before
    return [read_offline_run(path) for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"))]


def read_offline_run(path: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for encoded in read_records(path.read_bytes()):
        record = Record.FromString(encoded)
        for item in record.run.config.update:
            run.configuration[item.key] = json.loads(item.value_json)
        run.identity = record.run.run_id or run.identity
        values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if values:
            run.history[values["_step"]] = values
        for item in record.summary.update:
            run.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        if record.HasField("exit"):
            run.exit_code = record.exit.exit_code
    return run


def read_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: a header, then blocks of 32 KiB with pieces of them: whole, first, middle, last."""
    assert content[:4] == b":W&B"
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


class StandIn(BaseHTTPRequestHandler):
    """As much of a W&B server as a run needs; it has `last_step` steps of every run, and refuses all if `refuses`."""

    last_step: int
    refuses: bool
    steps: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        answer: dict[str, Any] = {}
        if self.path.endswith("/graphql"):
            answer = {"data": self.data(body)}
        elif "wandb-history.jsonl" in body.get("files", {}):
            self.steps.extend(json.loads(row)["_step"] for row in body["files"]["wandb-history.jsonl"]["content"])
        self.send_response(401 if self.refuses else 200)
        encoded = json.dumps(answer).encode()
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def data(self, body: dict[str, Any]) -> dict[str, Any]:
        owner = {"id": "p", "name": "elongate", "entity": {"id": "e", "name": "somebody"}}
        run = {"id": "r", "name": body["variables"].get("name"), "displayName": "default", "project": owner, "tags": []}
        run |= {"config": "{}", "summaryMetrics": "{}", "wandbConfig": '{"t": 1}', "eventsTail": "[]"}
        run |= {"sweepName": None, "historyLineCount": self.last_step, "eventsLineCount": 0, "logLineCount": 0}
        run |= {"historyTail": json.dumps([json.dumps({"_step": self.last_step, "_runtime": 1})])}
        if "RunResumeStatus" in body["query"]:
            return {"model": owner | {"bucket": run if self.last_step else None}}
        if "UpsertBucket" in body["query"]:
            return {"upsertBucket": {"bucket": run, "inserted": not self.last_step}}
        if "CreateRunFiles" in body["query"]:
            url = f"http://127.0.0.1:{self.server.server_address[1]}/upload"
            files = [{"name": name, "uploadUrl": url} for name in body["variables"]["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def account(monkeypatch: Patch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)


@pytest.fixture
def server(account: None, monkeypatch: Patch) -> Iterator[type[StandIn]]:
    handler = type("Handler", (StandIn,), {"last_step": 0, "refuses": False, "steps": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_address[1]}")
        yield handler
        listening.shutdown()
        thread.join()


def test_offline_run_holds_configuration_steps_summary_table_and_image(tmp_path: Path) -> None:
    track(Wandb(), tmp_path / "run", lines(1, 3), lines(4, 400))
    (run,) = offline_runs(tmp_path / "run")
    assert CONFIGURATION.items() <= run.configuration.items()
    assert run.train("loss") == {step: 4.0 / step for step in range(1, 401)}
    assert run.train("length") == dict.fromkeys(range(1, 401), 1024)
    assert run.train("stage") == run.train("step") == {}
    assert run.summary.items() >= SCALARS.items()
    assert run.exit_code == 0
    (files,) = (tmp_path / "run").glob("wandb/offline-run-*/files")
    image = run.logged("images/curve")
    assert (image["width"], image["height"]) == (150, 100)
    assert (files / image["path"]).read_bytes() == (tmp_path / "run" / "curve.png").read_bytes()
    shown = json.loads((files / run.logged("tables/curve")["path"]).read_text())
    assert shown["columns"] == ["row", "start", "loss"]
    assert shown["data"] == [["before", 0, 1.8], ["before", 256, None]]


def test_runs_after_one_another_in_one_process_are_kept_apart(tmp_path: Path) -> None:
    for number in range(3):
        track(Wandb(), tmp_path / f"run-{number}", [], lines(1, number + 1))
    runs = [run for number in range(3) for run in offline_runs(tmp_path / f"run-{number}")]
    assert [list(run.train("loss")) for run in runs] == [[1], [1, 2], [1, 2, 3]]
    assert len({run.identity for run in runs}) == 3


def test_a_second_start_has_the_same_id_and_every_step_from_the_first(tmp_path: Path) -> None:
    track(Wandb(), tmp_path / "run", [], lines(1, 5))
    track(Wandb(), tmp_path / "run", lines(1, 4), lines(5, 8))
    first, second = offline_runs(tmp_path / "run")
    assert first.identity == second.identity == (tmp_path / "run" / "wandb-id").read_text()
    assert second.train("loss") == {step: 4.0 / step for step in range(1, 9)}


def test_one_line_names_the_command_that_uploads_an_offline_run(tmp_path: Path, capsys: Captured) -> None:
    track(Wandb(), tmp_path / "a run", [], lines(1, 2))
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err == ""
    command = shlex.split(out.partition("upload this run: ")[2])
    assert command[:2] == ["wandb", "sync"]
    assert len(command) == 3
    assert list(Path(command[2]).glob("*.wandb"))


@pytest.mark.parametrize("mode", [None, "online", "offline", "dryrun"])
def test_without_an_account_runs_are_offline_and_nobody_is_asked(
    mode: str | None, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    import wandb

    def ask(*_: Any, **__: Any) -> None:
        pytest.fail("asked for an account")

    monkeypatch.setattr(wandb.errors.term, "can_use_terminput", lambda: True)
    monkeypatch.setattr(wandb.util, "prompt_choices", ask)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert ("no account" in capsys.readouterr().out) == (mode in (None, "online"))
    (run,) = offline_runs(tmp_path / "run")
    assert list(run.train("loss")) == [1, 2]


def test_disabled_leaves_nothing_and_says_nothing(tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"curve.png", "curve.csv"}
    assert capsys.readouterr() == ("", "")


def test_the_choice_goes_before_the_environment(server: type[StandIn], tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    track(Wandb(mode="offline"), tmp_path / "run", [], lines(1, 2))
    assert offline_runs(tmp_path / "run")
    assert not server.steps


def test_an_account_without_a_network_is_offline_within_seconds(
    account: None, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port, closed on every machine of today
    began = time.monotonic()
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert time.monotonic() - began < 5
    assert "127.0.0.1:9: " in capsys.readouterr().out
    assert len(offline_runs(tmp_path / "run")) == 1


def test_a_proxy_is_what_must_be_reached(account: None, tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert "127.0.0.1:9: " in capsys.readouterr().out


@pytest.mark.parametrize("refused", ["by the server", "by its form"])
def test_a_refused_account_is_offline(refused: str, server: type[StandIn], tmp_path: Path, monkeypatch: Patch, capsys: Captured) -> None:
    server.refuses = True
    if refused == "by its form":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    for number in range(2):
        track(Wandb(), tmp_path / f"run-{number}", [], lines(1, 2))
    runs = [run for number in range(2) for run in offline_runs(tmp_path / f"run-{number}")]
    assert [list(run.train("loss")) for run in runs] == [[1, 2], [1, 2]]
    out, err = capsys.readouterr()
    reason = "401" if refused == "by the server" else "WANDB_API_KEY"
    assert out.count("\n") == 2
    assert out.count(reason) == 2
    assert err == ""


def test_online_only_the_steps_that_the_server_lacks_are_sent(server: type[StandIn], tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "run").mkdir()
    for server.last_step, expected in ((0, list(range(1, 9))), (5, [6, 7, 8])):
        server.steps.clear()
        tracker = Wandb().start(tmp_path / "run", "default", CONFIGURATION, lines(1, 6))
        tracker.log(line(7))
        tracker.log(line(8))
        tracker.finish(0)
        assert server.steps == expected
    identity = (tmp_path / "run" / "wandb-id").read_text()
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"(W&B: http\S+/{identity}\n){{2}}", out)
    assert err == ""


@pytest.mark.parametrize("choice", [Wandb(), TensorBoard()], ids=["wandb", "tensorboard"])
@pytest.mark.parametrize("call", ["start", "log", "report", "finish"])
def test_a_fault_is_one_line_and_the_next_run_is_tracked(
    choice: Tracking, call: str, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    view = {"Wandb": tracking.WandbRun, "TensorBoard": tracking.EventFile}[type(choice).__name__]
    name = {"Wandb": "W&B", "TensorBoard": "TensorBoard"}[type(choice).__name__]

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left\non device")

    with monkeypatch.context() as broken:
        broken.setattr(view, call, fail)
        track(choice, tmp_path / "run", [], lines(1, 50))
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {name}: [Errno 28] No space left on device")
    assert warning.count("\n") == 1
    track(choice, tmp_path / "next", [], lines(1, 2))
    assert capsys.readouterr().err == ""
    assert list((tmp_path / "next").rglob("*.wandb")) or list((tmp_path / "next").rglob("events.*"))


def test_a_run_outlives_the_process_of_wandb(tmp_path: Path, capsys: Captured) -> None:
    import wandb

    (tmp_path / "run").mkdir()
    tracker = Wandb().start(tmp_path / "run", "default", CONFIGURATION, [])
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("run/wandb/*/*.wandb")) and time.monotonic() < deadline:
        time.sleep(0.05)
    service = wandb.setup().ensure_service()._proc._process
    service.kill()
    service.wait()
    for new in lines(1, 2000):
        tracker.log(new)
    tracker.finish(0)
    assert capsys.readouterr().err.count("\n") == 1
    track(Wandb(), tmp_path / "next", [], lines(1, 2))
    assert len(offline_runs(tmp_path / "next")) == 1


class Stuck(View):
    name = "Stuck"

    def __init__(self, release: threading.Event) -> None:
        self.release = release

    def load(self) -> tuple[type[Exception], ...]:
        return (OSError,)

    def start(self) -> None:
        self.release.wait()

    def log(self, line: Any) -> None: ...
    def report(self, results: Any, images: Any, tables: Any) -> None: ...
    def finish(self, exit_code: int) -> None: ...
    def abandon(self) -> None: ...


def test_only_finish_waits_and_not_for_ever(monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.5)
    release = threading.Event()
    began = time.monotonic()
    tracker = Background(Stuck(release))
    tracker.log(line(1))
    assert time.monotonic() - began < 0.2
    tracker.finish(0)
    assert 0.5 <= time.monotonic() - began < 2
    assert re.fullmatch("warning: Stuck: .+\n", capsys.readouterr().err)
    release.set()


def test_a_program_that_never_finishes_its_run_still_ends(tmp_path: Path) -> None:
    script = (
        "import signal, sys; from pathlib import Path; from elongate.tracking import Wandb\n"
        "before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "tracker = Wandb().start(Path(sys.argv[1]), 'default', {}, [])\n"
        "[tracker.log({'step': n, 'loss': 1.0}) for n in range(1000)]\n"
        "while not list(Path(sys.argv[1]).glob('wandb/*/*.wandb')): pass\n"
        "assert before == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "sys.exit(3)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 3
    assert ended.stderr == ""


def test_the_event_file_holds_configuration_steps_results_table_and_image(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(TensorBoard(), tmp_path / "run", lines(1, 3), lines(4, 40))
    track(TensorBoard(), tmp_path / "run", lines(1, 30), lines(31, 50))
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    everything = {"scalars": 0, "tensors": 0, "images": 0}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance=everything)
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["train/loss"] == [(step, pytest.approx(4.0 / step)) for step in range(1, 51)]
    assert {"train/length", "train/lr"} <= scalars.keys()
    assert {tag: points for tag, points in scalars.items() if tag.startswith("results/")} == {
        f"results/{key}": [(50, pytest.approx(value))] for key, value in SCALARS.items() if type(value) in (int, float)
    }
    (image,) = events.Images("images/curve")
    assert image.encoded_image_string == (tmp_path / "run" / "curve.png").read_bytes()
    assert (image.width, image.height, image.step) == (150, 100, 50)
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert json.loads(texts["configuration"].strip("`\n")) == CONFIGURATION
    assert texts["tables/curve"].splitlines()[0] == "| row | start | loss |"


def test_nothing_leaves_nothing(tmp_path: Path) -> None:
    track(Nothing(), tmp_path / "run", lines(1, 3), lines(4, 5))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"curve.png", "curve.csv"}


def test_an_unknown_mode_is_refused_with_the_words_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^mode=disabled: must be online, offline or null; use mode=null"):
        Wandb(mode="disabled")


@pytest.mark.parametrize("word", ["wandb", "tensorboard", "none"])
def test_the_file_of_a_choice_lists_its_defaults(word: str) -> None:
    written = yaml.safe_load((Path(__file__).parents[1] / "conf" / "tracking" / f"{word}.yaml").read_text())
    module, _, name = written.pop("_target_").rpartition(".")
    target = getattr(import_module(module), name)
    assert target(**written) == target()
    assert written.keys() == target.__dataclass_fields__.keys()
    assert isinstance(target(), Tracking)


def test_choices_are_read_without_importing_a_tracker() -> None:
    script = "import elongate.tracking, sys; print({'wandb', 'tensorboard', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
