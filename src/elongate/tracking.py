"""Trackers: what W&B or TensorBoard shows of a run. `metrics.jsonl` is the truth, a tracker is a view of it.

Every start shows the run from its first step. Importing the library and opening a run takes seconds, so all of it happens on a
thread of its own, call after call. A fault is told in one line and ends the tracking, never the run.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shlex
import socket
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, TextIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from elongate.errors import require

if TYPE_CHECKING:
    import wandb
    from tensorboard.compat.proto.summary_pb2 import Summary

CONNECT_SECONDS = 2.0  # a server that does not answer within them is taken as out of reach
UPLOAD_SECONDS = 30.0  # at the end of a run; what is not uploaded by then stays in the folder
FINISH_SECONDS = 45.0  # the longest that the end of a run waits for its tracker


class Tracker(ABC):
    """What the training program tells of a run. No call waits, but the last."""

    @abstractmethod
    def log(self, line: Mapping[str, Any]) -> None:
        """A line of `metrics.jsonl`; its numbers are shown as train/<key> over its step."""

    @abstractmethod
    def report(self, results: Mapping[str, Any], images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        """What stands at the end: `results.json`, PNG images and CSV tables."""

    @abstractmethod
    def finish(self, exit_code: int) -> None: ...


class Untracked(Tracker):
    def log(self, line: Mapping[str, Any]) -> None:
        pass

    def report(self, results: Mapping[str, Any], images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass


class View(ABC):
    """A service that shows a run. One thread makes all calls, `load` first."""

    name: ClassVar[str]

    @abstractmethod
    def load(self) -> tuple[type[Exception], ...]:
        """Imports the library and returns what a call raises when the service, and not this program, is at fault."""

    @abstractmethod
    def start(self) -> None:
        """Opens the view and shows the steps that are done already."""

    @abstractmethod
    def log(self, line: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def report(self, results: Mapping[str, Any], images: Mapping[str, Path], tables: Mapping[str, Path]) -> None: ...

    @abstractmethod
    def finish(self, exit_code: int) -> None: ...


class Background(Tracker):
    """Passes every call on to a view, in order, on a thread of its own."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon: a server that keeps a call waiting must not keep the program from ending.
        self._thread = Thread(target=self._work, name=view.name, daemon=True)
        self._thread.start()

    def log(self, line: Mapping[str, Any]) -> None:
        self._calls.put(partial(self._view.log, line))

    def report(self, results: Mapping[str, Any], images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        self._calls.put(partial(self._view.report, results, images, tables))

    def finish(self, exit_code: int) -> None:
        self._calls.put(partial(self._view.finish, exit_code))
        self._calls.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn(f"is not done after {FINISH_SECONDS:.0f} s; it is left behind")

    def _work(self) -> None:
        faults: tuple[type[Exception], ...] = (ImportError, OSError)
        try:
            faults = self._view.load()
            self._view.start()
            for call in iter(self._calls.get, None):
                call()
        except faults as fault:
            what = " ".join(str(fault).split()) or type(fault).__name__
            self._warn(f"{what}; it shows no more of this run, metrics.jsonl goes on")
            for _ in iter(self._calls.get, None):
                pass

    def _warn(self, text: str) -> None:
        _tell(f"warning: {self._view.name}: {text}", sys.stderr)


class Tracking(ABC):
    @abstractmethod
    def start(self, directory: Path, name: str, configuration: Mapping[str, Any], history: list[dict[str, Any]]) -> Tracker:
        """Starts to track a run; `history` are the lines that `metrics.jsonl` holds already."""


@dataclass(frozen=True, kw_only=True)
class Nothing(Tracking):
    def start(self, directory: Path, name: str, configuration: Mapping[str, Any], history: list[dict[str, Any]]) -> Tracker:
        return Untracked()


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracking):
    def start(self, directory: Path, name: str, configuration: Mapping[str, Any], history: list[dict[str, Any]]) -> Tracker:
        return Background(EventFile(directory / "tensorboard", configuration, history))


@dataclass(frozen=True, kw_only=True)
class Wandb(Tracking):
    project: str = "elongate"
    entity: str | None = None  # user or team; null: the account's own
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: str | None = None  # online, offline; null: what WANDB_MODE says, else online where an account is set up, else offline

    def __post_init__(self) -> None:
        rule = "must be online, offline or null"
        require(self.mode in (None, "online", "offline"), "mode", self.mode, rule, "use {key}=null for online where an account is set up")

    def start(self, directory: Path, name: str, configuration: Mapping[str, Any], history: list[dict[str, Any]]) -> Tracker:
        return Background(WandbRun(self, directory, name, configuration, history))


class WandbRun(View):
    """A run of W&B. Its id stays that of the directory; its files lie in `wandb/` there."""

    name = "W&B"

    def __init__(
        self, tracking: Wandb, directory: Path, name: str, configuration: Mapping[str, Any], history: list[dict[str, Any]]
    ) -> None:
        self._tracking, self._directory, self._name = tracking, directory, name
        self._configuration, self._history = configuration, history
        self._run: wandb.Run

    def load(self) -> tuple[type[Exception], ...]:
        # Reports of W&B's own faults to its makers would be waited for at the end of the program.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
        from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

        # The last three: wandb-core is gone or refuses. RuntimeError, TypeError and ValueError: settings and values W&B does not take.
        own = (wandb.Error, HandleAbandonedError, MailboxClosedError, ServerResponseError)
        return (*own, OSError, RuntimeError, TypeError, ValueError)

    def start(self) -> None:
        import wandb

        mode, reason = self._mode()
        self._run = wandb.init(
            project=self._tracking.project,
            entity=self._tracking.entity,
            group=self._tracking.group,
            tags=self._tracking.tags or None,
            mode=mode,
            dir=str(self._directory),
            id=_run_id(self._directory),
            name=self._name,
            config=dict(self._configuration),
            resume="allow",
            reinit="create_new",
        )
        if mode == "offline":
            folder = os.path.relpath(self._run.settings.sync_dir)
            _tell(f"W&B is offline ({reason}); to upload this run: wandb sync {shlex.quote(folder)}", sys.stdout)
        elif mode == "online":
            _tell(f"W&B: {self._run.url}", sys.stdout)
        for line in self._history:
            # A run that the server knows goes on after its last step.
            if line["step"] >= self._run.starting_step:
                self.log(line)

    def log(self, line: Mapping[str, Any]) -> None:
        self._run.log({f"train/{key}": value for key, value in _numbers(line).items() if key != "step"}, step=line["step"])

    def report(self, results: Mapping[str, Any], images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        import wandb

        self._run.summary.update(flatten(results))
        shown: dict[str, Any] = {f"images/{name}": wandb.Image(str(path)) for name, path in images.items()}
        for name, path in tables.items():
            header, *rows = _read_table(path)
            shown[f"tables/{name}"] = wandb.Table(columns=header, data=[[_cell(text) for text in row] for row in rows])
        self._run.log(shown)

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)

    def _mode(self) -> tuple[str, str]:
        """online, offline or disabled; and why."""
        import wandb

        session = wandb.setup(_quiet_settings(self._tracking.mode)).settings
        if session.mode == "disabled":
            return "disabled", ""
        if session.mode in ("offline", "dryrun"):
            return "offline", "as asked for"
        try:
            if not wandb.login(prompt=False):
                return "offline", "no account is set up"
        except wandb.errors.AuthenticationError as fault:
            return "offline", str(fault).rstrip(".")
        host, port = _gateway(session.base_url)
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError as fault:
            return "offline", f"{host}:{port} cannot be reached: {fault}"
        return "online", ""


def _quiet_settings(mode: str | None) -> wandb.Settings:
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=UPLOAD_SECONDS,
        finish_timeout=UPLOAD_SECONDS,
    )
    if mode is not None:
        settings.mode = mode
    return settings


def _gateway(url: str) -> tuple[str, int]:
    """Where a connection to the URL goes first: its host, or the proxy that the environment names."""
    address = urlsplit(url)
    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 80)


def _run_id(directory: Path) -> str:
    path = directory / "wandb-id"
    if not path.exists():
        aside = directory / ".wandb-id.partial"
        aside.write_text(secrets.token_hex(8))
        aside.replace(path)
    return path.read_text()


class EventFile(View):
    """An event file of TensorBoard that holds the whole run; those of earlier starts are replaced by it."""

    name = "TensorBoard"

    def __init__(self, directory: Path, configuration: Mapping[str, Any], history: list[dict[str, Any]]) -> None:
        self._directory, self._configuration, self._history = directory, configuration, history
        self._step = 0

    def load(self) -> tuple[type[Exception], ...]:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401

        return (OSError, struct.error, TypeError, ValueError)

    def start(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        for earlier in self._directory.glob("events.out.tfevents.*"):
            earlier.unlink()
        # Not TensorBoard's own EventFileWriter: it has a thread of its own, in which a full disk prints a traceback.
        path = self._directory / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._records = RecordWriter(path.open("wb"))
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self._write(_text("configuration", f"```\n{json.dumps(self._configuration, indent=1, default=str)}\n```"))
        for line in self._history:
            self.log(line)

    def log(self, line: Mapping[str, Any]) -> None:
        self._step = line["step"]
        self._write(*(_scalar(f"train/{key}", value) for key, value in _numbers(line).items() if key != "step"))

    def report(self, results: Mapping[str, Any], images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        self._write(*(_scalar(f"results/{key}", value) for key, value in _numbers(flatten(results)).items()))
        self._write(*(_image(f"images/{name}", path) for name, path in images.items()))
        self._write(*(_text(f"tables/{name}", _markdown(_read_table(path))) for name, path in tables.items()))

    def finish(self, exit_code: int) -> None:
        self._records.close()

    def _write(self, *values: Summary.Value) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._records.write(Event(wall_time=time.time(), step=self._step, summary=Summary(value=values)).SerializeToString())
        self._records.flush()


def _scalar(tag: str, value: float) -> Summary.Value:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=tag, simple_value=value)


def _image(tag: str, path: Path) -> Summary.Value:
    from tensorboard.compat.proto.summary_pb2 import Summary

    encoded = path.read_bytes()
    # The header of a PNG file: 8 bytes of signature, 8 of chunk length and type, then the size.
    width, height = struct.unpack(">II", encoded[16:24])
    return Summary.Value(tag=tag, image=Summary.Image(width=width, height=height, encoded_image_string=encoded))


def _text(tag: str, markdown: str) -> Summary.Value:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, metadata=metadata, tensor=TensorProto(dtype="DT_STRING", string_val=[markdown.encode()]))


def flatten(results: Mapping[str, Any]) -> dict[str, Any]:
    """The scalars of `results.json` by flat names: strategy/…, budget/…, curve/after/512-1024, needle/after/margin/1024 (mean over depths)."""
    flat = dict(_leaves(results, ""))
    for row, figures in results.get("curve", {}).get("table", {}).items():
        if row != "edges":
            bins = pairwise(results["curve"]["table"]["edges"])
            flat |= {f"curve/{row}/{start}-{end}": loss for (start, end), loss in zip(bins, figures["loss"], strict=True)}
    for row, figures in results.get("needle", {}).items():
        if isinstance(figures, Mapping):
            for measure in (name for name in figures if not name.endswith("_standard_error")):
                by_length = zip(results["needle"]["lengths"], figures[measure], strict=True)
                flat |= {f"needle/{row}/{measure}/{length}": fmean(depths) for length, depths in by_length}
    return {key: value for key, value in flat.items() if value is not None}


def _leaves(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Scalars only: lists are left out."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}/")
        elif not isinstance(value, list):
            yield f"{path}{key}", value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _read_table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _cell(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _markdown(table: list[list[str]]) -> str:
    header, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([header, "|" + "---|" * len(table[0]), *rows])


def _tell(text: str, stream: TextIO) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=stream)  # above the bar, where there is one
    stream.flush()
