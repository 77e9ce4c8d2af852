"""The event file of TensorBoard, read by TensorBoard's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tracking.sample_run import CONFIGURATION, SCALARS, lines, track

from elongate.tracking.tensorboard import TensorBoard


@pytest.mark.slow
def test_the_event_file_contains_configuration_steps_results_table_and_image(tmp_path: Path) -> None:
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


def test_a_finished_run_names_the_command_that_shows_it(tmp_path: Path) -> None:
    assert "was never logged; overwrite=true" in str(TensorBoard().describe_finished(tmp_path))
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1.host").touch()
    assert str(TensorBoard().describe_finished(tmp_path)).endswith(f"to see it: tensorboard --logdir {tmp_path}")
