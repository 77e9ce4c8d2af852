"""Trackers: what W&B or TensorBoard shows of a run. `metrics.jsonl` is the truth, a tracker is a view of it.

Every start shows the run from its first step. Importing a library and opening a run takes seconds, so all of it happens
on a thread of its own, call after call. A fault is told in one line and ends the tracking, never the run.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, main_thread
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TextIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from elongate.errors import require

if TYPE_CHECKING:
    import wandb
    from tensorboard.compat.proto.summary_pb2 import Summary

CONNECT_SECONDS = 2.0  # a server that does not answer within them is taken as out of reach
OPEN_SECONDS = 15.0  # for a server within reach to open the run
UPLOAD_SECONDS = 30.0  # at the end of a run; what is not uploaded by then stays in the folder
FINISH_SECONDS = 45.0  # the longest that the end of a run waits for its tracker

Values = Mapping[str, Any]
Mode = Literal["online", "offline", "disabled"]


class Tracker(ABC):
    """What the training program tells of a run."""

    @abstractmethod
    def log(self, line: Values) -> None:
        """A line of `metrics.jsonl`; its numbers are shown as train/<key> over its step."""

    @abstractmethod
    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        """Shows the end of a run: single values of `results.json` by path, PNG images and CSV tables by name."""

    @abstractmethod
    def finish(self, exit_code: int) -> None: ...


class Untracked(Tracker):
    def log(self, line: Values) -> None:
        pass

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass


class View(Tracker):
    """A service that shows a run. One thread makes all calls, `load` first."""

    name: ClassVar[str]

    @abstractmethod
    def load(self) -> tuple[type[Exception], ...]:
        """Imports the library and returns what a call raises when the service, and not this program, is at fault."""

    @abstractmethod
    def start(self) -> None:
        """Opens the view and shows the steps that are done already."""

    @abstractmethod
    def abandon(self) -> None:
        """Lets go of the service after a fault, so that the next run and the end of the program find nothing of it."""


class Background(Tracker):
    """Passes every call on to a view, in order, on a thread of its own. Only `finish` waits, and not for ever."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon: a server that keeps a call waiting must not keep the program from ending.
        self._thread = Thread(target=self._work, name=view.name, daemon=True)
        self._thread.start()

    def log(self, line: Values) -> None:
        self._calls.put(partial(self._view.log, line))

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        self._calls.put(partial(self._view.report, scalars, images, tables))

    def finish(self, exit_code: int) -> None:
        self._calls.put(partial(self._view.finish, exit_code))
        self._calls.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn(f"is not done after {FINISH_SECONDS:.0f} s; it is left behind")

    def _work(self) -> None:
        faults: tuple[type[Exception], ...] = (ImportError, OSError)
        try:
            # Not before there is something to show: the first step of a run should not share the machine with an import.
            first = self._calls.get()
            faults = self._view.load()
            self._view.start()
            for call in chain([first] if first else [], iter(self._calls.get, None)):
                call()
        except faults as fault:
            if not main_thread().is_alive():
                return  # The program ends, and the library has closed the service under this thread.
            self._warn(f"{_one_line(fault)}; it shows no more of this run, metrics.jsonl goes on")
            with suppress(*faults):
                self._view.abandon()
            for _ in iter(self._calls.get, None):
                pass

    def _warn(self, text: str) -> None:
        _tell(f"warning: {self._view.name}: {text}", sys.stderr)


class Tracking(ABC):
    @abstractmethod
    def start(self, directory: Path, name: str, configuration: Values, history: Sequence[Values]) -> Tracker:
        """Starts to track a run; `history` are the lines that `metrics.jsonl` holds already."""


@dataclass(frozen=True, kw_only=True)
class Nothing(Tracking):
    def start(self, directory: Path, name: str, configuration: Values, history: Sequence[Values]) -> Tracker:
        return Untracked()


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracking):
    def start(self, directory: Path, name: str, configuration: Values, history: Sequence[Values]) -> Tracker:
        return Background(EventFile(directory / "tensorboard", configuration, history))


@dataclass(frozen=True, kw_only=True)
class Wandb(Tracking):
    project: str = "elongate"
    entity: str | None = None  # user or team; null: the account's own
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: str | None = None  # online, offline; null: as WANDB_MODE says, else online where an account is set up

    def __post_init__(self) -> None:
        remedy = "use {key}=null for online where an account is set up, else offline"
        require(self.mode in (None, "online", "offline"), "mode", self.mode, "must be online, offline or null", remedy)

    def start(self, directory: Path, name: str, configuration: Values, history: Sequence[Values]) -> Tracker:
        return Background(WandbRun(self, directory, name, configuration, history))


class WandbRun(View):
    """A run of W&B. Its id stays that of the directory; its files lie in `wandb/` there."""

    name = "W&B"

    def __init__(self, choice: Wandb, directory: Path, name: str, configuration: Values, history: Sequence[Values]) -> None:
        self._choice, self._directory, self._name = choice, directory, name
        self._configuration, self._history = configuration, history
        self._run: wandb.Run

    def load(self) -> tuple[type[Exception], ...]:
        # Reports of W&B's own faults to its makers would be waited for at the end of the program.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb
        from wandb.sdk.lib.asyncio_manager import AlreadyJoinedError
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
        from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

        # Raised where W&B's process is gone or refuses; the built-in ones also for settings that W&B does not take.
        gone = (AlreadyJoinedError, HandleAbandonedError, MailboxClosedError, ServerResponseError)
        return (wandb.Error, *gone, OSError, RuntimeError, TypeError, ValueError)

    def start(self) -> None:
        import wandb

        mode, reason = self._mode()
        try:
            self._run = self._open(mode)
        except wandb.Error as fault:
            if mode != "online":
                raise
            # The account is refused or the server is silent. W&B's process holds on to the run's id, so it must go.
            wandb.teardown()
            wandb.setup(_quiet_settings(self._choice.mode))
            mode, reason = "offline", _one_line(fault)
            self._run = self._open(mode)
        if mode == "offline":
            folder = os.path.relpath(self._run.settings.sync_dir)
            _tell(f"W&B is offline ({reason}); to upload this run: wandb sync {shlex.quote(folder)}", sys.stdout)
        elif mode == "online":
            _tell(f"W&B: {self._run.url}", sys.stdout)
        for line in self._history:
            # A run that the server knows goes on after its last step.
            if line["step"] >= self._run.starting_step:
                self.log(line)

    def log(self, line: Values) -> None:
        self._run.log(_train(line), step=line["step"])

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        import wandb

        self._run.summary.update(scalars)
        shown: dict[str, Any] = {f"images/{name}": wandb.Image(str(path)) for name, path in images.items()}
        for name, path in tables.items():
            header, *rows = _read_table(path)
            shown[f"tables/{name}"] = wandb.Table(columns=header, data=[[_cell(text) for text in row] for row in rows])
        self._run.log(shown)

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)

    def abandon(self) -> None:
        import wandb

        wandb.teardown(exit_code=1)

    def _open(self, mode: Mode) -> wandb.Run:
        import wandb

        return wandb.init(
            project=self._choice.project,
            entity=self._choice.entity,
            group=self._choice.group,
            tags=self._choice.tags or None,
            mode=mode,
            dir=str(self._directory),
            id=_run_id(self._directory) if mode != "disabled" else None,
            name=self._name,
            config=dict(self._configuration),
            resume="allow",
            reinit="create_new",
        )

    def _mode(self) -> tuple[Mode, str]:
        """And why it is offline."""
        import wandb

        session = wandb.setup(_quiet_settings(self._choice.mode)).settings
        if session.mode == "disabled":
            return "disabled", ""
        if session.mode in ("offline", "dryrun"):
            return "offline", "as asked for"
        try:
            if not wandb.login(prompt=False, verify=False):
                return "offline", "no account is set up"
        except wandb.errors.AuthenticationError as fault:
            return "offline", _one_line(fault)
        host, port = _gateway(session.base_url)
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError as fault:
            return "offline", f"{host}:{port}: {_one_line(fault)}"
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
        init_timeout=OPEN_SECONDS,
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

    def __init__(self, directory: Path, configuration: Values, history: Sequence[Values]) -> None:
        self._directory, self._configuration, self._history = directory, configuration, history
        self._step = 0
        self._stream = ExitStack()

    def load(self) -> tuple[type[Exception], ...]:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401  # here, where a missing package is told

        return (OSError, struct.error, TypeError, ValueError)

    def start(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        for earlier in self._directory.glob("events.out.tfevents.*"):
            earlier.unlink()
        # Not TensorBoard's own EventFileWriter: it has a thread of its own, in which a full disk prints a traceback.
        path = self._directory / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._records = RecordWriter(self._stream.enter_context(path.open("wb", buffering=0)))
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self._write(_text("configuration", f"```\n{json.dumps(self._configuration, indent=1, default=str)}\n```"))
        for line in self._history:
            self.log(line)

    def log(self, line: Values) -> None:
        self._step = line["step"]
        self._write(*(_scalar(key, value) for key, value in _train(line).items()))

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        self._write(*(_scalar(f"results/{key}", value) for key, value in _numbers(scalars).items()))
        self._write(*(_image(f"images/{name}", path) for name, path in images.items()))
        self._write(*(_text(f"tables/{name}", _markdown(_read_table(path))) for name, path in tables.items()))

    def finish(self, exit_code: int) -> None:
        self._stream.close()

    def abandon(self) -> None:
        self._stream.close()

    def _write(self, *values: Summary.Value) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        event = Event(wall_time=time.time(), step=self._step, summary=Summary(value=values))
        self._records.write(event.SerializeToString())


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
    tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _train(line: Values) -> dict[str, float]:
    return {f"train/{key}": value for key, value in _numbers(line).items() if key != "step"}


def _numbers(values: Values) -> dict[str, float]:
    return {key: value for key, value in values.items() if type(value) in (int, float)}  # not bool


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


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split()).rstrip(".") or type(fault).__name__


def _tell(text: str, stream: TextIO) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=stream)  # above the bar, where there is one
    stream.flush()
