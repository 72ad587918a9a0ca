"""Folders kept open because files are created in them over and over."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

# A run writes to one such folder; a few more are no burden.
_MOST = 4


class OpenFolders:
    """Descriptors of a few folders by name; closed when this object goes. Safe to use from several threads.

    A descriptor that is forgotten stays open until then, since another thread may be about to use it.
    """

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._opened: list[int] = []
        weakref.finalize(self, _close_all, os.close, self._opened)

    def get(self, folder: str) -> int | None:
        """Return the descriptor of a folder, if it is kept."""
        return self._descriptors.get(folder)

    def keep(self, folder: str, descriptor: int) -> bool:
        """Keep a descriptor and return True, unless there are enough or the folder has one."""
        if len(self._opened) >= _MOST or self._descriptors.setdefault(folder, descriptor) != descriptor:
            return False
        self._opened.append(descriptor)
        return True

    def forget(self, folder: str) -> None:
        """Keep a folder no longer, because it is another one by now."""
        self._descriptors.pop(folder, None)


def _close_all(close: Callable[[int], None], descriptors: list[int]) -> None:
    for descriptor in descriptors:
        close(descriptor)
