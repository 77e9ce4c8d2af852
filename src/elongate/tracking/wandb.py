"""Weights & Biases. A run never waits for input: without an account or a network it is written to a folder.

Every setting that the configuration leaves null is taken from the environment variable of W&B, then from W&B's settings
files, then from the default here.
"""

from __future__ import annotations

import glob
import os
import secrets
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from elongate.console import say
from elongate.errors import require
from elongate.tracking.tracker import Background, Tracker, Tracking, Untracked, View, one_line
from elongate.tracking.values import Values, read_table, train_scalars

if TYPE_CHECKING:
    import wandb

PROJECT = "elongate"
CONNECT_SECONDS = 2.0  # a server that does not answer within this time counts as unreachable
OPEN_SECONDS = 15.0  # for a reachable server to open the run
UPLOAD_SECONDS = 30.0  # at the end of a run; the folder keeps what is not uploaded by then

Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True, kw_only=True)
class Wandb(Tracking):
    """The settings of W&B."""

    project: str | None = None  # null: WANDB_PROJECT, else elongate
    entity: str | None = None  # user or team; null: WANDB_ENTITY, else the default of the account
    name: str | None = None  # of the run; null: WANDB_NAME, else the name of the run directory
    group: str | None = None  # null: WANDB_RUN_GROUP, else in a sweep the name of its directory
    job_type: str | None = None  # null: WANDB_JOB_TYPE
    notes: str | None = None  # null: WANDB_NOTES
    tags: list[str] = field(default_factory=list)  # of 1 to 64 characters each; empty: WANDB_TAGS, separated by commas
    id: str | None = None  # null: WANDB_RUN_ID, else the id that is stored in the run directory
    resume: str | None = None  # allow, must, never, auto; null: WANDB_RESUME, else allow
    mode: str | None = None  # online, offline, disabled; null: WANDB_MODE, else online if there is an account
    directory: str | None = None  # parent of the folder wandb; null: WANDB_DIR, else the run directory
    console: bool | None = None  # record what the terminal shows; null: WANDB_CONSOLE, else false
    code: bool | None = None  # save the main script; null: WANDB_SAVE_CODE, else false
    git: bool | None = None  # record the commit and uncommitted changes; null: WANDB_DISABLE_GIT, else false
    system_metrics: bool | None = None  # record use of CPU, memory, disk, GPU; null: WANDB_X_DISABLE_STATS, else false

    def __post_init__(self) -> None:
        modes, rule = (None, "online", "offline", "disabled"), "must be online, offline, disabled or null"
        remedy = "use {key}=null for online if there is an account, else offline"
        require(self.mode in modes, "mode", self.mode, rule, remedy)
        words, rule = (None, "allow", "must", "never", "auto"), "must be allow, must, never, auto or null"
        require(self.resume in words, "resume", self.resume, rule, "use {key}=allow")
        for key, value, reserved in (("project", self.project, "/\\#?%:"), ("id", self.id, ":;,#?/'")):
            fits = value is None or (value == value.strip() and 0 < len(value) <= 128)
            rule = f"must have 1 to 128 characters, without spaces at its ends and without {' '.join(reserved)}"
            require(fits and not set(value or "") & set(reserved), key, value, rule, "use {key}=null for the default")
        rule = "must have 1 to 64 characters each"
        require(all(0 < len(tag) <= 64 for tag in self.tags), "tags", self.tags, rule, "use {key}=[first,second]")

    def tracker(self, directory: Path, configuration: Values) -> Tracker:
        if self._is_disabled():
            return Untracked()
        return Background(WandbRun(self, directory, configuration))

    def in_sweep(self, sweep: str) -> Wandb:
        for key, value in (("tracking.id", self.id), ("WANDB_RUN_ID", os.environ.get("WANDB_RUN_ID"))):
            require(not value, key, value, "cannot be the id of every run of a sweep", "remove {key}")
        return replace(self, group=self.group or os.environ.get("WANDB_RUN_GROUP") or sweep)

    def describe_finished(self, directory: Path) -> str | None:
        if self._is_disabled():
            return None
        folder = self._newest_folder(directory)
        if folder is None:
            return "W&B: the run is finished and was never logged; overwrite=true trains and logs it from the start"
        note = "W&B: the run is finished and is not logged again"
        if list(folder.glob("*.wandb.synced")):
            return f"{note}; it was uploaded by wandb sync"
        command = f"wandb sync {shlex.quote(os.path.relpath(folder))}"
        reason = "to upload it" if folder.name.startswith("offline-") else "if its upload was cut off"
        return f"{note}; {reason}: {command}"

    def parent_folder(self, directory: Path) -> Path:
        """The folder in which W&B creates `wandb/` for the run in `directory`."""
        return Path(self.directory or os.environ.get("WANDB_DIR") or directory).expanduser()

    def _is_disabled(self) -> bool:
        return (self.mode or os.environ.get("WANDB_MODE")) == "disabled"

    def _newest_folder(self, directory: Path) -> Path | None:
        """The folder of the last start of the run. All folders of a run end in its id."""
        if (identity := stored_id(directory)) is None:
            return None
        folders = self.parent_folder(directory).glob(f"*wandb/*run-*-{glob.escape(identity)}*")
        return max(folders, key=lambda folder: folder.name.removeprefix("offline-"), default=None)


class WandbRun(View):
    """A run of W&B. All starts in a run directory have the same id, so W&B shows them as one run."""

    name = "W&B"

    def __init__(self, choice: Wandb, directory: Path, configuration: Values) -> None:
        self._choice, self._directory, self._configuration = choice, directory, configuration
        self._run: wandb.Run

    def load(self) -> tuple[type[Exception], ...]:
        # The end of the program would wait for reports of W&B's own errors to its developers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb
        from wandb.sdk.lib.asyncio_manager import AlreadyJoinedError
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
        from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

        # Raised if W&B's process is gone or refuses; the built-in ones also for settings that W&B does not accept.
        gone = (AlreadyJoinedError, HandleAbandonedError, MailboxClosedError, ServerResponseError)
        return (wandb.Error, *gone, OSError, RuntimeError, TypeError, ValueError)

    def start(self, history: Sequence[Values]) -> None:
        import wandb

        mode, reason = self._mode()
        try:
            self._run = self._open(mode)
        except wandb.Error as fault:
            if mode != "online":
                raise
            # The account is refused or the server is silent. W&B's process still owns the run's id, so end it.
            wandb.teardown()
            wandb.setup(_process_settings(self._choice.mode))
            mode, reason = "offline", one_line(fault)
            self._run = self._open(mode)
        if mode == "offline":
            folder = os.path.relpath(self._run.settings.sync_dir)
            say(f"W&B is offline ({reason}); to upload this run: wandb sync {shlex.quote(folder)}")
        elif mode == "online":
            say(f"W&B: {self._run.url}")
        for line in history:
            # A run that the server knows continues after its last step.
            if line["step"] >= self._run.starting_step:
                self.log(line)

    def log(self, line: Values) -> None:
        self._run.log(train_scalars(line), step=line["step"])

    def report(self, scalars: Values, images: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        import wandb

        self._run.summary.update(dict(scalars))
        shown: dict[str, Any] = {f"images/{name}": wandb.Image(str(path)) for name, path in images.items()}
        for name, path in tables.items():
            header, *rows = read_table(path)
            shown[f"tables/{name}"] = wandb.Table(columns=header, data=[[_cell(text) for text in row] for row in rows])
        self._run.log(shown)

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)

    def abandon(self) -> None:
        import wandb

        wandb.teardown(exit_code=1)

    def _open(self, mode: Mode) -> wandb.Run:
        import wandb

        choice = self._choice
        environment = wandb.setup().settings  # and the settings files of W&B
        resume: Any = choice.resume or environment.resume or "allow"
        parent = choice.parent_folder(self._directory)
        if mode != "disabled":
            parent.mkdir(parents=True, exist_ok=True)  # W&B would silently use a temporary folder instead of failing
        # An argument that is None is left to the environment by W&B.
        return wandb.init(
            project=choice.project or environment.project or PROJECT,
            entity=choice.entity,
            name=choice.name or environment.run_name or self._directory.name,
            group=choice.group,
            job_type=choice.job_type,
            notes=choice.notes,
            tags=choice.tags or None,
            id=_run_id(self._directory, choice.id or environment.run_id) if mode != "disabled" else None,
            resume=resume,
            mode=mode,
            dir=str(parent),
            config=dict(self._configuration),
            reinit="create_new",
            settings=_run_settings(choice),
        )

    def _mode(self) -> tuple[Mode, str]:
        """The mode, and why it is offline."""
        import wandb

        session = wandb.setup(_process_settings(self._choice.mode)).settings
        if session.mode == "disabled":
            return "disabled", ""
        if session.mode in ("offline", "dryrun"):
            return "offline", "as configured"
        try:
            if not wandb.login(prompt=False, verify=False):
                return "offline", "no account is set up"
        except wandb.errors.AuthenticationError as fault:
            return "offline", one_line(fault)
        host, port = _gateway(session.base_url)
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError as fault:
            return "offline", f"{host}:{port}: {one_line(fault)}"
        return "online", ""


def _process_settings(mode: str | None) -> wandb.Settings:
    """Settings of all runs of the program."""
    import wandb

    settings = wandb.Settings(silent=True, init_timeout=OPEN_SECONDS, finish_timeout=UPLOAD_SECONDS)
    if mode is not None:
        settings.mode = mode
    return settings


def _run_settings(choice: Wandb) -> wandb.Settings:
    """What W&B records in addition to the run: all off by default, because it slows down the start."""
    import wandb

    settings = wandb.Settings(x_save_requirements=False)
    if choice.console is not None or "WANDB_CONSOLE" not in os.environ:
        settings.console = "auto" if choice.console else "off"
    if choice.code is not None or not os.environ.keys() & {"WANDB_SAVE_CODE", "WANDB_DISABLE_CODE"}:
        settings.save_code, settings.disable_code = bool(choice.code), not choice.code
    if choice.git is not None or "WANDB_DISABLE_GIT" not in os.environ:
        settings.disable_git = not choice.git
    if choice.system_metrics is not None or not os.environ.keys() & {"WANDB_X_DISABLE_STATS", "WANDB__DISABLE_STATS"}:
        settings.x_disable_stats = not choice.system_metrics
    return settings


def _gateway(url: str) -> tuple[str, int]:
    """The host and port that a connection to the URL opens first: its server, or the proxy of the environment."""
    address = urlsplit(url)
    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 80)


def stored_id(directory: Path) -> str | None:
    """The id of earlier starts in the run directory; None before the first."""
    path = directory / "wandb-id"
    return path.read_text() if path.exists() else None


def _run_id(directory: Path, given: str | None) -> str:
    """The given id, else that of earlier starts, else a new one. It is stored for later starts."""
    stored = stored_id(directory)
    identity = given or stored or secrets.token_hex(8)
    if identity != stored:
        aside = directory / ".wandb-id.partial"
        aside.write_text(identity)
        aside.replace(directory / "wandb-id")
    return identity


def _cell(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text
