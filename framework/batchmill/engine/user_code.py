"""Errors that user code raises: told with what was being done, and with the traceback below the engine."""

from __future__ import annotations

import os
import traceback
from typing import Any

from batchmill.engine.confidential import redact
from batchmill.errors import BatchmillError, ProcessorError


def user_error(what: str, error: Exception) -> BatchmillError:
    """Return an error that tells what user code raised, with its traceback; our own errors pass unchanged."""
    if isinstance(error, BatchmillError):
        return error
    return ProcessorError(redact(f"{what}: {type(error).__name__}: {error}\n\n{user_trace(error).rstrip()}"))


def user_trace(error: BaseException) -> str:
    """Return an error's traceback from the first frame that is not the engine's."""
    return "".join(traceback.format_exception(type(error), error, _below_engine(error)))


def _below_engine(error: BaseException) -> Any:
    trace, ours = error.__traceback__, os.path.dirname(__file__) + os.sep
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    return trace


def drop_frames(error: BaseException | None) -> None:
    """Let go of what an error's frames hold (tensors, files); its text stays."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
