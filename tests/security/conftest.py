"""Makes ``tests/support`` importable and its fixtures known; a file that appears where planted code ran."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from process_fixtures import launch, output, support_path  # noqa: F401


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    """The file that planted code would create. A test that uses it fails if it is there at the end."""
    path = tmp_path / "planted-code-ran"
    yield path
    assert not path.exists(), "planted code ran"
