"""Errors for what is not in the ledger, each with what is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from batchmill import ModelError

_LISTED = 20


def unknown_model(name: str, available: Sequence[str]) -> ModelError:
    """Return the error for a model that is not there."""
    close = difflib.get_close_matches(name, available, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ModelError(
        f"There is no model named {name!r}.{hint} Available: {_listed(available)}. "
        f"Register one with client.create_model({name!r})."
    )


def unknown_checkpoint(uuid: str, available: Sequence[tuple[str, str]]) -> ModelError:
    """Return the error for a checkpoint that is not there; ``available`` holds uuids and locations."""
    described = [f"{known} ({location})" for known, location in available]
    return ModelError(
        f"There is no checkpoint {uuid!r}. Available: {_listed(described)}. "
        f"Register one with client.add_checkpoint(PATH)."
    )


def unknown_version(model_name: str, version: int | None, available: Sequence[int]) -> ModelError:
    """Return the error for a version that is not there."""
    return ModelError(
        f"Model {model_name!r} has no version {version}. Available: {_listed([str(n) for n in available])}."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return (", ".join(names[:_LISTED]) or "none") + (f" and {more} more" if more > 0 else "")
