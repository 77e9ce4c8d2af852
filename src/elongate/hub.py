"""Whether the Hugging Face hub can be reached, found out at once."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request


def hub_answers(seconds: float = 4.0) -> bool:
    """True if the hub answers at all; also True in offline mode, where the libraries fail at once by themselves.

    Asked before the libraries are: without a network they repeat every request for half a minute.
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
        except urllib.error.URLError as error:
            # Python's own certificates may be missing where those of the libraries are not.
            answers.append(isinstance(error.reason, ssl.SSLError))
        except OSError:
            answers.append(False)

    # In a thread, since no timeout of ours ends a name look-up of the operating system.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]
