"""TensorBoard: one event file in the run directory contains the whole run and replaces those of earlier starts."""

from __future__ import annotations

import json
import shlex
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elongate.tracking.tracker import Background, Tracker, Tracking, View
from elongate.tracking.values import Values, numbers, read_table, train_scalars

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

FOLDER = "tensorboard"  # in the run directory
EVENTS = "events.out.tfevents.*"


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracking):
    """The choice of TensorBoard, which has no settings."""

    def tracker(self, directory: Path, configuration: Values) -> Tracker:
        return Background(EventFile(directory / FOLDER, configuration))

    def describe_finished(self, directory: Path) -> str | None:
        if list((directory / FOLDER).glob(EVENTS)):
            command = f"tensorboard --logdir {shlex.quote(str(directory))}"
            return f"TensorBoard: the run is finished and is not logged again; to see it: {command}"
        return "TensorBoard: the run is finished and was never logged; overwrite=true trains and logs it from the start"


class EventFile(View):
    """The event file of one run."""

    name = "TensorBoard"

    def __init__(self, directory: Path, configuration: Values) -> None:
        self._directory, self._configuration = directory, configuration
        self._step = 0
        self._stream = ExitStack()

    def load(self) -> tuple[type[Exception], ...]:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401  # imported here to report a missing package

        return (OSError, struct.error, TypeError, ValueError)

    def start(self, history: Sequence[Values]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        for earlier in self._directory.glob(EVENTS):
            earlier.unlink()
        # Not TensorBoard's own EventFileWriter: it writes on its own thread, which prints a traceback on a full disk.
        path = self._directory / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._records = RecordWriter(self._stream.enter_context(path.open("wb", buffering=0)))
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self._write(_text("configuration", f"```\n{json.dumps(self._configuration, indent=1, default=str)}\n```"))
        for line in history:
            self.log(line)

    def log(self, line: Values) -> None:
        self._step = line["step"]
        self._write(*(_scalar(key, value) for key, value in train_scalars(line).items()))

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        self._write(*(_scalar(f"results/{key}", value) for key, value in numbers(scalars).items()))
        self._write(*(_image(f"images/{name}", path) for name, path in images.items()))
        self._write(*(_text(f"tables/{name}", _markdown(read_table(path))) for name, path in tables.items()))

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


def _markdown(table: list[list[str]]) -> str:
    header, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([header, "|" + "---|" * len(table[0]), *rows])
