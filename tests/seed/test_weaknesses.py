"""What goes wrong with the seed, each shown to be right here."""

from __future__ import annotations

import warnings

import pytest
import torch
from ranks import StopAt, run_ranks, values_of
from torch.utils.data import TensorDataset

from batchmill import (
    BatchmillError,
    ConfigMismatchError,
    ErrorBudgetError,
    ProcessorError,
    Reducer,
    ReducerError,
    TorchBatchProcessor,
    torch_batch_process,
)

SAMPLES = TensorDataset(torch.arange(100))


@pytest.mark.parametrize("before", [1, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 6])
def test_another_number_of_workers_loses_nothing_and_repeats_nothing(output, before, after):
    # The seed stores a number of steps per rank: 4 workers, then 6 or 8, lose samples; then 3, 2 or 1 repeat some.
    job = {"n": 200, "batch_size": 2, "checkpoint_interval": 2, "reducer": True}
    first = run_ranks(output, before, **job, callbacks=lambda rank: {"stop": StopAt(5)})
    second = run_ranks(output, after, **job)
    batches = [batch for calls in (first, second) for call in calls for batch in call.batches]
    assert sorted(batches) == list(range(100))
    assert values_of(output) == list(range(200))
    # ... and its metrics after a resume cover what came after it.
    assert [call.result.metrics for call in second] == [{"sum_metric": sum(range(200))}] * after


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 5}, "batch_size: 10 in the run, 5 now"),
        ({"n": 99}, "dataset.length: 100 in the run, 99 now"),
        ({"max_batches": 3}, "max_batches: 5 in the run, 3 now"),
        ({"max_batches": None}, "max_batches: 5 in the run, None now"),
    ],
)
def test_other_settings_or_data_are_refused_on_resume(output, change, named):
    job = {"n": 100, "batch_size": 10, "max_batches": 5}
    run_ranks(output, 1, **job, callbacks=lambda rank: {"stop": StopAt(4)})
    with pytest.raises(ConfigMismatchError, match=named) as caught:
        run_ranks(output, 1, **{**job, **change})
    assert caught.value.exit_code == 78
    run_ranks(output, 1, **job)
    assert values_of(output) == list(range(50))


def test_a_finished_run_is_not_reduced_or_finished_again(output):
    job = {"n": 100, "batch_size": 10, "reducer": True}
    first = run_ranks(output, 1, **job)
    again = run_ranks(output, 2, **job)
    assert [call.finishes for call in (*first, *again)] == [1, 0, 0]
    assert [call.batches for call in again] == [[], []]
    assert again[1].result == first[0].result


def test_files_of_a_chunk_that_was_not_committed_are_not_there(output, tmp_path):
    broken = tmp_path / "broken"
    broken.touch()

    class Uploading(TorchBatchProcessor):
        def __init__(self, context):
            self.context = context

        def process_batch(self, batch, batch_idx):
            with self.context.upload_path() as path:
                (path / f"batch-{batch_idx}").write_text("done")
            if batch_idx == 5 and broken.exists():
                raise RuntimeError("power cut")

    def run():
        return torch_batch_process(
            Uploading, SAMPLES, 10, checkpoint_interval=2, output=output, run_id="run", on_error="fail"
        )

    def files():
        return sorted(file.name for file in (output / "run" / "files").rglob("batch-*"))

    with pytest.raises(ProcessorError, match=r"batch 5 \(samples 50\.\.59\): RuntimeError: power cut"):
        run()
    assert files() == [f"batch-{i}" for i in range(4)]
    broken.unlink()
    run()
    assert files() == [f"batch-{i}" for i in range(10)]


def test_a_batch_that_collates_to_none_is_processed_like_any_other(output):
    seen = []

    class Counting(TorchBatchProcessor):
        def __init__(self, context):
            pass

        def process_batch(self, batch, batch_idx):
            seen.append((batch_idx, batch))

    def collate(items):
        return None if items[0][0] == 20 else len(items)

    torch_batch_process(Counting, SAMPLES, 20, dataloader_kwargs={"collate_fn": collate}, output=output)
    assert seen == [(0, 20), (1, None), (2, 20), (3, 20), (4, 20)]


def test_to_device_warns_once_per_type(output):
    class Odd:
        pass

    class Moving(TorchBatchProcessor):
        def __init__(self, context):
            self.context = context

        def process_batch(self, batch, batch_idx):
            self.context.to_device([Odd(), {"nested": Odd()}, frozenset()])

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch_batch_process(Moving, SAMPLES, 10, output=output)
    kinds = [str(warning.message).split(",")[0].rpartition(".")[2] for warning in told]
    assert kinds == ["Odd", "frozenset"]


def test_two_metrics_of_one_name_are_an_error(output):
    class Twice(TorchBatchProcessor):
        def __init__(self, context):
            context.wrap_reducer(Reducer.SUM, "loss")
            context.wrap_reducer(Reducer.MAX, "loss")

        def process_batch(self, batch, batch_idx):
            raise AssertionError("never reached")

    with pytest.raises(ReducerError, match="Two reducers are named 'loss'"):
        torch_batch_process(Twice, SAMPLES, 10, output=output)


def test_the_last_batches_stop_as_fast_as_the_others(output):
    # The seed asks whether to stop at checkpoints only, and never after the last.
    calls = run_ranks(output, 1, n=95, batch_size=10, callbacks=lambda rank: {"stop": StopAt(5)})
    assert (len(calls[0].batches), calls[0].result.complete) == (10, False)
    assert run_ranks(output, 1, n=95, batch_size=10)[0].result.complete


def test_an_error_of_the_user_says_where_and_why(output):
    class Broken(TorchBatchProcessor):
        def __init__(self, context):
            pass

        def process_batch(self, batch, batch_idx):
            self.trip_over()

        def trip_over(self):
            raise KeyError("label")

    with pytest.raises(ProcessorError) as caught:
        torch_batch_process(Broken, SAMPLES, 10, output=output, on_error="fail")
    assert isinstance(caught.value, BatchmillError)
    message = str(caught.value)
    assert message.startswith("process_batch failed on batch 0 (samples 0..9): KeyError: 'label'")
    assert "in trip_over" in message
    assert "engine/worker.py" not in message


def test_an_error_of_every_sample_ends_the_run_with_where_and_why(output):
    class Broken(TorchBatchProcessor):
        def __init__(self, context):
            pass

        def process_batch(self, batch, batch_idx):
            raise KeyError("label")

    with pytest.raises(ErrorBudgetError) as caught:
        torch_batch_process(Broken, SAMPLES, 20, output=output)
    message = str(caught.value)
    assert message.startswith("Sample ") and " failed at stage process: KeyError: 'label'" in message
    assert "That makes 11 failed samples, and max_errors=10 allows no more." in message
    assert "in process_batch" in message
    assert caught.value.exit_code == 65
