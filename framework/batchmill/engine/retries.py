"""Asking storage again: unclear answers are repeated, and a full disk is waited for."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from batchmill.errors import ObjectNotFoundError, StorageError, StorageFullError

_TRIES = 6
_FIRST_DELAY = 0.1
# Seconds for somebody to make room on a full disk before the run gives up, resumable; and between looks.
FULL_PATIENCE = 30.0
_FULL_PAUSE = 1.0

_log = logging.getLogger("batchmill")

T = TypeVar("T")


def with_retries(operation: Callable[[], T], tries: int = _TRIES, sleep: Callable[[float], None] = time.sleep) -> T:
    """Call ``operation`` until storage answers clearly, with exponential back-off and full jitter.

    Storage that is full is given ``FULL_PATIENCE`` seconds to be emptied. The commit thread waits here, and since its
    queue is short, so does the worker: no chunk is begun meanwhile.

    Args:
        operation: A storage call that may be repeated.
        tries: Calls at most.
        sleep: Waits the given seconds.

    Raises:
        StorageError: The last error, after all tries. "Not found" is an answer and is raised at once.
    """
    failures, waited = 0, 0.0
    while True:
        try:
            return operation()
        except ObjectNotFoundError:
            raise
        except StorageFullError as error:
            if waited >= FULL_PATIENCE:
                raise
            if not waited:
                _log.warning("%s Waiting up to %.0f s for space.", error, FULL_PATIENCE)
            sleep(_FULL_PAUSE)
            waited += _FULL_PAUSE
        except StorageError:
            failures += 1
            if failures == tries:
                raise
            sleep(random.uniform(0, _FIRST_DELAY * 2 ** (failures - 1)))
