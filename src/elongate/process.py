"""Settings of the process. They must be made before torch is imported."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

# Each of them says how long an idle OpenMP thread waits.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# They warn in several lines about kernels for other hardware when transformers imports torchao, if that is installed.
_NOISY = ("torchao", "torch.utils._pytree")
# Directories that libraries otherwise create in the home directory.
_CACHES = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")


def prepare_process() -> None:
    """Prepares threads, output, caches, imports and signals. The user's own environment variables have precedence."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle OpenMP threads spin by default: two runs on the same cores then slow each other down more than ten times.
    if not any(name in os.environ for name in WAIT_VARIABLES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal has no arrows and no box lines
    if not _has_writable_home():
        # Otherwise matplotlib warns in several lines at every start, and W&B records no tables and images.
        for name in _CACHES:
            os.environ.setdefault(name, str(Path(tempfile.gettempdir()) / f"elongate-{os.getuid()}" / name.lower()))
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # The user's own packages, behind everything else, so that they replace no module by accident.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    # Training installs its own handlers. Before and after it, the others end the program as SIGINT does.
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, _interrupt)


def stop_signals() -> list[signal.Signals]:
    """The signals that end a run after a checkpoint: SIGINT, SIGTERM, and SIGHUP of a closed terminal, which `nohup` ignores."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _has_writable_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:  # no HOME, and no entry for the user in the system's list
        return False
