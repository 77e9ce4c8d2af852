"""Isolates the harness: it prints nothing, uses its own seeds, and does not change the program's random state."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np


@contextmanager
def isolated() -> Iterator[None]:
    """Runs the block with the harness's default seeds, so that tasks with random parts equal those in published results."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    logger = logging.getLogger("lm_eval")
    level, state, numpy_state = logger.level, random.getstate(), np.random.get_state()  # the global state, which tasks use
    processes = os.environ.get("DISABLE_MULTIPROC")
    # Without this, the bootstrap of the harness forks one process per core, each with a copy of the model.
    os.environ["DISABLE_MULTIPROC"] = "1"
    logger.setLevel(logging.CRITICAL + 1)
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        logger.setLevel(level)
        if processes is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = processes
