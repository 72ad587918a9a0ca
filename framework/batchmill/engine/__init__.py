"""The life of a run on one worker: grid, claims, reading, processing, commit log, fold. Start at ``run.py``."""

from batchmill.engine.safe_text import guard_log

guard_log()
