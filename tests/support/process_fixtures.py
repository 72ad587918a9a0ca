"""Fixtures of the process-level tests, imported by their conftest files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import SUPPORT, Launcher
from zygote import Zygote

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


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks workers in milliseconds; one for the whole session."""
    path = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH", "")]))
    started = Zygote(tmp_path_factory.mktemp("zygote"), {"PYTHONPATH": path})
    yield started
    started.close()


@pytest.fixture
def support_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers of a launcher that runs in this process import the jobs."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH", "")])))
