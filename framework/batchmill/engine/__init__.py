"""The life of a run on one worker: grid, claims, reading, processing, commit log, fold. Start at ``run.py``."""
