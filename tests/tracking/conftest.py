"""Every test of a tracker starts without account, network and settings of W&B."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.tracking.server import StandIn


@contextmanager
def bare_machine(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """No account, no settings of W&B, no proxy. W&B reads them once per session, so its session ends with the block."""
    with pytest.MonkeyPatch.context() as patch:
        for key in list(os.environ):
            if key.startswith("WANDB_") or key.lower().endswith("_proxy") or key == "NETRC":
                patch.delenv(key)
        patch.setenv("HOME", str(folder / "home"))
        patch.chdir(folder)
        yield patch
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()


@pytest.fixture(autouse=True)
def machine(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    with bare_machine(tmp_path) as patch:
        yield patch


@pytest.fixture
def account(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("WANDB_API_KEY", "a" * 40)


@pytest.fixture
def server(account: None, machine: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    """A server that W&B reaches."""
    handler = type("Handler", (StandIn,), {"last_step": 0, "refuses": False, "steps": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        machine.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_address[1]}")
        yield handler
        listening.shutdown()
        thread.join()
