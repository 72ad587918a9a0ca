import json

import pytest
import torch

from batchmill.engine.profiling import TraceProfiler


def steps(profiler, count):
    for _ in range(count):
        with profiler as inner:
            torch.ones(8) @ torch.ones(8)
            inner.step()


def test_entering_it_for_every_batch_is_one_recording(tmp_path):
    profiler = TraceProfiler(tmp_path / "traces", 3)
    steps(profiler, 12)
    profiler.close()
    (trace,) = (tmp_path / "traces").iterdir()
    assert trace.name == "rank3.pt.trace.json"
    events = json.loads(trace.read_text())["traceEvents"]
    assert any("aten::" in event.get("name", "") for event in events)


def test_a_short_run_is_recorded_as_far_as_it_goes(tmp_path):
    profiler = TraceProfiler(tmp_path, 0)
    steps(profiler, 3)
    profiler.close()
    assert [path.name for path in tmp_path.iterdir()] == ["rank0.pt.trace.json"]


def test_never_entered_leaves_nothing(tmp_path):
    profiler = TraceProfiler(tmp_path / "traces", 0)
    profiler.close()
    assert not (tmp_path / "traces").exists()


def test_a_step_outside_of_a_block_is_harmless(tmp_path):
    profiler = TraceProfiler(tmp_path, 0)
    profiler.step()
    steps(profiler, 2)
    profiler.close()
    profiler.close()


def test_an_error_inside_passes_through(tmp_path):
    profiler = TraceProfiler(tmp_path, 0)
    with pytest.raises(ValueError, match="no"), profiler:
        raise ValueError("no")
    profiler.close()
