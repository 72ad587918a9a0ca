"""Makes ``tests/support`` importable and its fixtures known; a file that appears where planted code ran."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bomb import Bomb
from process_fixtures import launch, output, support_path  # noqa: F401


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    """The file that planted code would create. A test that uses it fails if it is there at the end."""
    path = tmp_path / "planted-code-ran"
    yield path
    assert not path.exists(), "planted code ran"


@pytest.fixture
def bomb(flag: Path) -> bytes:
    made = pickle.dumps(Bomb(flag))
    pickle.loads(made)  # noqa: S301 - our own
    assert flag.exists(), "the trap does not work"
    flag.unlink()
    return made
