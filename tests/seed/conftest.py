"""Makes the helpers beside the tests importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder that holds the test's runs."""
    return tmp_path / "runs"
