"""Fixtures of the process-level tests, imported by their conftest files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Launcher

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes through /proc")


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Start processes of this test; whatever is left of them at its end is killed."""
    launcher = Launcher(tmp_path / "processes")
    yield launcher
    launcher.close()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder that holds the test's runs."""
    return tmp_path / "runs"
