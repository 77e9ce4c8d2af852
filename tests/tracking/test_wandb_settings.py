"""W&B: keys, environment variables and sweeps decide what a run is called and what it records."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.tracking.offline import OfflineRun, offline_runs
from tests.tracking.sample_run import lines, track

from elongate.errors import ConfigError
from elongate.tracking.wandb import Wandb

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


ENVIRONMENT = {
    "WANDB_PROJECT": "their-project",
    "WANDB_ENTITY": "their-team",
    "WANDB_NAME": "their name",
    "WANDB_RUN_GROUP": "their-group",
    "WANDB_JOB_TYPE": "their-job",
    "WANDB_NOTES": "their notes",
    "WANDB_TAGS": "red,green",
    "WANDB_RUN_ID": "their-id",
    "WANDB_DIR": "their-folder",
}
THEIRS = OfflineRun(
    identity="their-id",
    project="their-project",
    entity="their-team",
    name="their name",
    group="their-group",
    job_type="their-job",
    notes="their notes",
    tags=["red", "green"],
)
KEYS = Wandb(
    project="our-project",
    entity="our-team",
    name="our name",
    group="our-group",
    job_type="our-job",
    notes="our notes",
    tags=["blue"],
    id="our-id",
    directory="our-folder",
)
OURS = OfflineRun(
    identity="our-id",
    project="our-project",
    entity="our-team",
    name="our name",
    group="our-group",
    job_type="our-job",
    notes="our notes",
    tags=["blue"],
)


@pytest.mark.slow
def test_the_environment_sets_what_is_null_and_a_given_key_goes_first(tmp_path: Path, monkeypatch: Patch) -> None:
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    for choice, folder, expected in ((Wandb(), "their-folder", THEIRS), (KEYS, "our-folder", OURS)):
        track(choice, tmp_path / "run", [], lines(1, 2))
        (run,) = offline_runs(tmp_path / folder)
        assert run.settings() == expected.settings()
        assert run.identity == (tmp_path / "run" / "wandb-id").read_text()
    assert not (tmp_path / "run" / "wandb").exists()
    monkeypatch.delenv("WANDB_RUN_ID")
    monkeypatch.delenv("WANDB_DIR")
    track(Wandb(), tmp_path / "run", [], lines(1, 2))
    assert offline_runs(tmp_path / "run")[0].identity == "our-id"  # an id that was given once stays that of the run


@pytest.mark.parametrize("group", ["", "environment", "key"])
def test_runs_of_a_sweep_are_grouped_unless_a_group_is_given(group: str, monkeypatch: Patch) -> None:
    if group == "environment":
        monkeypatch.setenv("WANDB_RUN_GROUP", "environment")
    choice = Wandb(group="key" if group == "key" else None)
    assert choice.in_sweep("sweep-lr").group == (group or "sweep-lr")


def test_runs_of_a_sweep_cannot_share_an_id(monkeypatch: Patch) -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.id=abc: cannot be the id of every run of a sweep; remove tracking\.id$"):
        Wandb(id="abc").in_sweep("sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "xyz")
    with pytest.raises(ConfigError, match=r"^WANDB_RUN_ID=xyz: cannot be the id of every run"):
        Wandb().in_sweep("sweep")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "offlin"}, "mode=offlin: must be online, offline, disabled or null; use mode=null for online if"),
        ({"resume": "yes"}, "resume=yes: must be allow, must, never, auto or null; use resume=allow"),
        ({"project": "a/b"}, "project=a/b: must have 1 to 128 characters, without spaces at its ends and without / "),
        ({"project": ""}, "project: must have 1 to 128 characters"),
        ({"project": "p" * 129}, f"project={'p' * 129}: must have 1 to 128 characters"),
        ({"id": "a:b"}, "id=a:b: must have 1 to 128 characters, without spaces at its ends and without : ; "),
        ({"id": " a"}, "id= a: must have 1 to 128 characters"),
        ({"tags": ["a", ""]}, "tags=[a,]: must have 1 to 64 characters each; use tags=[first,second]"),
    ],
)
def test_settings_that_wandb_does_not_accept_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        Wandb(**settings)


SCRIPT = """
import sys, time
from pathlib import Path
from elongate.tracking.wandb import Wandb
tracker = Wandb(**eval(sys.argv[2])).tracker(Path(sys.argv[1]), {})
tracker.start([])
tracker.log({"step": 1, "loss": 1.0})
while not hasattr(tracker._view, "_run"): time.sleep(0.01)
time.sleep(1)  # ten system metrics
print("a line of the terminal")
tracker.finish(0)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a script in it that tracks a run."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "script.py").write_text(SCRIPT)
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "environment", "recorded"),
    [
        ({}, {}, set()),
        (dict.fromkeys(("console", "code", "git", "system_metrics"), True), {}, {"console", "code", "git", "system_metrics"}),
        (
            {},
            {"WANDB_CONSOLE": "wrap", "WANDB_SAVE_CODE": "true", "WANDB_DISABLE_GIT": "false", "WANDB_X_DISABLE_STATS": "false"},
            {"console", "code", "git", "system_metrics"},
        ),
    ],
    ids=["default", "keys", "environment"],
)
def test_console_code_git_and_system_metrics_are_recorded_only_if_chosen(
    settings: dict[str, bool], environment: dict[str, str], recorded: set[str], repository: Path, tmp_path: Path
) -> None:
    variables = {**os.environ, **environment, "WANDB_X_STATS_SAMPLING_INTERVAL": "0.1"}
    command = [sys.executable, "script.py", str(tmp_path), repr(settings)]
    subprocess.run(command, cwd=repository, env=variables, check=True, capture_output=True, timeout=300)
    (run,) = offline_runs(tmp_path)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True).stdout.strip()
    found = {
        "console": "a line of the terminal" in run.console,
        "code": any(path.name == "script.py" for path in tmp_path.glob("wandb/*/files/code/**/*")),
        "git": run.commit == commit,
        "system_metrics": run.num_system_metrics > 0,
    }
    assert {name for name, is_recorded in found.items() if is_recorded} == recorded


# -- modes ---------------------------------------------------------------------------------------------
