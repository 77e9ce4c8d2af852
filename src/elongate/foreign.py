"""Calls of foreign code on foreign data: a library that reads a file, or a network that the user names.

No list of exception classes is long enough for such calls: a JSON parser alone raises `ValueError`, `RecursionError` and
`UnicodeDecodeError`, a network with a wrong number in its configuration anything. What decides is who raised it. A
fault raised by foreign code is a fault of the data and becomes one line; a fault raised by a line of this package that
the block reaches through further calls is our own bug, and keeps its traceback.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from elongate.errors import ElongateError, first_line

_PACKAGE = f"{Path(__file__).parent}{os.sep}"
# Their messages are sentences; those of other classes, such as 'NoneType' object is not subscriptable, need the name of the class.
_SENTENCES = (OSError, ValueError, RuntimeError, ImportError, EOFError)


def reason(fault: BaseException) -> str:
    """The message of a fault in one line, with its class where the message alone is not a sentence."""
    lines = str(fault).strip().splitlines()
    if lines and lines[0].endswith(":"):
        # The message of a strict dataclass is a title, and the fault itself below it.
        return " ".join(line.strip() for line in lines[:2]).rstrip(".")
    text = first_line(fault)
    is_sentence = (isinstance(fault, _SENTENCES) and not isinstance(fault, UnicodeError | RecursionError)) or type(fault) is Exception
    return text if is_sentence or text == type(fault).__name__ else f"{type(fault).__name__}: {text}"


@contextmanager
def foreign(refusal: Callable[[str], ElongateError], explain: Callable[[BaseException], str] = reason) -> Iterator[None]:
    """Turns a fault of foreign code into the error that `refusal` makes of its reason, which `explain` finds.

    Keep the block to foreign calls: a fault of the block's own lines counts as foreign too, because functions of
    compiled libraries leave no frame. Errors for the user pass unchanged, and so do faults of functions of this package
    that the block calls.
    """
    try:
        yield
    except ElongateError:
        raise
    except BaseException as fault:
        # Rust has its own class of exceptions for what it did not foresee, which is not an `Exception`.
        is_panic = type(fault).__name__ == "PanicException"
        if not isinstance(fault, Exception) and not is_panic:
            raise
        # No line of this package raises the base class, but compiled libraries do.
        if not is_panic and type(fault) is not Exception and _is_own(fault.__traceback__):
            raise
        raise refusal(explain(fault)) from fault


def _is_own(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is a line of this package below the block, which is the second frame."""
    files = []
    while traceback is not None:
        files.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return len(files) > 2 and files[-1].startswith(_PACKAGE)
