"""`python -m tests.architectures` writes docs/architectures.md; with names of rows it replaces only these.

Every architecture is computed in a process of its own, two at a time, so that a crash costs one row.
"""

from __future__ import annotations

import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from tests.architectures.cells import CELLS, Specimen, outcome
from tests.architectures.page import PATH, Page, written
from tests.architectures.zoo import ZOO

_FORK = get_context("fork")  # imports take most of the time
_SECONDS = 120  # of a cell


def row(name: str) -> list[str]:
    """Return the outcomes of a row; `fault: …` where a cell raises something else than a refusal, or the process dies."""
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_send_row, args=(sender, name))
    process.start()
    sender.close()
    outcomes = []
    while len(outcomes) < len(CELLS) and receiver.poll(_SECONDS):
        try:
            outcomes.append(receiver.recv())
        except EOFError:
            break
    process.kill()
    process.join()
    outcomes += [f"fault: the process ended, {process.exitcode}"] * (len(CELLS) - len(outcomes))
    print(f"{name}: {' | '.join(outcomes)}", file=sys.stderr, flush=True)
    return outcomes


def _send_row(sender: Connection, name: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        specimen = None
        for cell in CELLS:
            try:
                specimen = specimen or Specimen(ZOO[name], Path(folder))
                sender.send(outcome(specimen, cell))
            except Exception as fault:  # noqa: BLE001  # shown, and raised by the test of the row
                sender.send(f"fault: {type(fault).__name__}: {' '.join(str(fault).split())[:300]}")


def main(names: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        chosen = names or sorted(ZOO)
        outcomes = dict(zip(chosen, pool.map(row, chosen), strict=True))
    before = Page.read().outcomes if names else {}
    PATH.write_text(written(before | outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
