"""Benchmarks: ``python -m benchmarks``. Every figure is a ratio to a hand-written loop measured in the same run."""
