"""A pickle that tells when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Bomb:
    """Creates the flag when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.flag,))
