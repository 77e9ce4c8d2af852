"""Builds what the next step reads while a step runs.

A batch is a pure function of its step, so it does not matter when it is built: order, resume and results stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Built = TypeVar("Built")


def read_ahead(build: Callable[[int], Built], steps: range) -> Iterator[Built]:
    """Yields `build(step)` for each step, and builds the next one in a thread meanwhile.

    Raises what `build` raises, when its step is due. Close the iterator to end the thread.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch") as thread:
        coming = thread.submit(build, steps[0])
        for step in steps:
            built = coming.result()
            if step != steps[-1]:
                coming = thread.submit(build, step + steps.step)
            yield built
