"""Finds out within seconds whether the Hugging Face hub can be reached."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request


def hub_answers(seconds: float = 4.0) -> bool:
    """Whether the hub answers at all. Also true in offline mode, in which the libraries fail immediately.

    Call it before the libraries: without a network they repeat every request for half a minute.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=seconds).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except urllib.error.URLError as fault:
            # The certificates of Python may be missing where the libraries bring their own.
            answers.append(isinstance(fault.reason, ssl.SSLError))
        except OSError:
            answers.append(False)

    # In a thread, because the timeout does not end a name look-up of the operating system.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]
