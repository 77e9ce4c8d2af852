"""The harness runs apart: it says nothing, draws from its own seeds, and leaves the program's random state as it was."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np


@contextmanager
def apart() -> Iterator[None]:
    """Its seeds are those that it starts with by itself, so that tasks which draw are the tasks that others measured."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    logger = logging.getLogger("lm_eval")
    level, state, numpy_state = logger.level, random.getstate(), np.random.get_state()  # the one that tasks draw from
    processes = os.environ.get("DISABLE_MULTIPROC")
    # Its bootstrap would fork as many processes as there are cores, each with this one's model.
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
