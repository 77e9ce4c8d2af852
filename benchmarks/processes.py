"""Measurements in their own processes: `SCRIPT --measure TASK` prints one line of JSON, last."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


class Failed(Exception):
    """A measurement has no result. The message says why."""


class Child:
    """A process that measures one task.

    It may import what it needs before it reads the line that `result` sends, so that imports overlap with the measurement before.
    """

    def __init__(self, script: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, script, "--measure", json.dumps(task)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    def result(self, timeout: float | None = None) -> Any:
        """Starts the measurement and returns its figures. Raises `Failed`, also after `timeout` seconds."""
        try:
            out, errors = self._process.communicate("start\n", timeout)
        except subprocess.TimeoutExpired as error:
            self.stop()
            raise Failed(f"stopped after {timeout:.0f} s") from error
        code = self._process.returncode
        if code < 0:
            raise Failed(f"ended by signal {-code} (out of memory?)")
        if code:
            raise Failed("failed:\n" + "\n".join(errors.splitlines()[-12:]))
        return json.loads(out.splitlines()[-1])

    def stop(self) -> None:
        """Ends the process, whether it has started to measure or not."""
        self._process.kill()
        with contextlib.suppress(ValueError):  # the pipes are closed already
            self._process.communicate()
