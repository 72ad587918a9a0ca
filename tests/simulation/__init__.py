"""Deterministic simulation of runs under faults; see ``docs/reliability.md``. Start reading at ``schedule.py``."""
