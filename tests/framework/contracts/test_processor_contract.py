import pytest

from batchmill import TorchBatchProcessor


def test_both_methods_without_a_default_are_required():
    for missing in ("__init__", "process_batch"):
        methods = {"__init__": lambda self, context: None, "process_batch": lambda self, batch, batch_idx: None}
        del methods[missing]
        with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
            type("Half", (TorchBatchProcessor,), methods)(None)


class Least(TorchBatchProcessor):
    def __init__(self, context):
        pass

    def process_batch(self, batch, batch_idx):
        return None


def test_the_rest_has_defaults_that_do_nothing():
    processor = Least(None)
    assert processor.on_checkpoint_start() is None and processor.on_finish() is None


def test_the_profiler_is_usable_without_a_run():
    with Least(None).profiler as profiler:
        profiler.step()
    with pytest.raises(ValueError, match="no"), Least(None).profiler:
        raise ValueError("no")
