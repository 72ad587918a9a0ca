"""Makes ``tests/support`` importable and its fixtures known."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from process_fixtures import launch, output, support_path, zygote  # noqa: F401
