"""The pluggy markers that join hook specifications and their implementations."""

from __future__ import annotations

import pluggy

PROJECT = "batchmill"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
