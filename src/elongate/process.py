"""Settings of the process. They must be made before torch is imported."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

# Each of them says how long an idle OpenMP thread waits.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def prepare_process() -> None:
    """Prepares threads, output, caches, imports and signals. The user's own environment variables have precedence."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle OpenMP threads spin by default: two runs on the same cores then slow each other down more than ten times.
    if not any(name in os.environ for name in WAIT_VARIABLES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal has no arrows and no box lines
    if "MPLCONFIGDIR" not in os.environ and not _has_writable_home():
        # Otherwise matplotlib warns in several lines and builds its font cache at every start.
        os.environ["MPLCONFIGDIR"] = str(Path(tempfile.gettempdir()) / f"elongate-matplotlib-{os.getuid()}")
    # The user's own packages, behind everything else, so that they replace no module by accident.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    # Training installs its own handlers. Before and after it, SIGTERM ends the program as SIGINT does.
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _has_writable_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:  # no HOME, and no entry for the user in the system's list
        return False
