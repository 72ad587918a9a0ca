"""The fifteen cases of the seed's own tests, against real runs.

Where Batchmill differs on purpose the test shows Batchmill's way: ``batch_idx`` is the batch's number on the grid
and not per worker, chunks are at most an eighth of the run so that the number of workers never decides how metrics
are grouped, and a rank without work is not asked to checkpoint.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from ranks import Progress, StopAt, run_ranks, values_of
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from batchmill import ConfigError, TorchBatchProcessor, client, torch_batch_process
from batchmill.engine.context import choose_device, default_device


class Echo(TorchBatchProcessor):
    def __init__(self, context):
        self.context = context

    def process_batch(self, batch, batch_idx):
        return batch[0]


DATASET = TensorDataset(torch.arange(50))


# 1. invalid dataloader_kwargs


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shuffle": True}, "may not hold shuffle"),
        ({"sampler": SequentialSampler(DATASET)}, "may not hold sampler"),
        ({"batch_sampler": [[0], [1]]}, "may not hold batch_sampler"),
        ({"drop_last": True}, "may not hold drop_last"),
        ({"batch_size": 4}, "batch_size is given twice: 8 as an argument and 4 in dataloader_kwargs"),
    ],
    ids=["shuffle", "sampler", "batch_sampler", "drop_last", "batch_size"],
)
def test_invalid_dataloader_kwargs(output, kwargs, message):
    given = dict(kwargs)
    with pytest.raises(ValueError, match=message):
        torch_batch_process(Echo, DATASET, 8, dataloader_kwargs=kwargs, output=output)
    assert kwargs == given
    assert not output.exists()


def test_batch_size_may_come_from_dataloader_kwargs_which_stay_the_callers(output):
    kwargs = {"batch_size": 20, "shuffle": False, "num_workers": 0}
    torch_batch_process(Echo, DATASET, dataloader_kwargs=kwargs, output=output, run_id="run")
    assert kwargs == {"batch_size": 20, "shuffle": False, "num_workers": 0}
    from batchmill.inspection import describe_run

    assert describe_run(str(output / "run")).batch_size == 20


# 2. every rank checkpoints as often as it has chunks; 4. process_batch as often as it has batches, on_finish once


@pytest.mark.parametrize(
    ("batch_size", "size", "batches"),
    [
        (10, 1, [[0, 1, 2, 3, 4]]),
        (10, 2, [[0, 2, 4], [1, 3]]),
        (20, 1, [[0, 1, 2]]),
        (20, 2, [[0, 2], [1]]),
    ],
)
def test_process_batch_checkpoints_and_on_finish(output, batch_size, size, batches):
    calls = run_ranks(output, size, n=50, batch_size=batch_size)
    assert [call.batches for call in calls] == batches
    assert [call.checkpoints for call in calls] == [len(each) for each in batches]
    assert [call.finishes for call in calls] == [1] * size
    assert values_of(output) == list(range(50))


def test_checkpoint_interval_is_kept_where_every_worker_has_enough(output):
    calls = run_ranks(output, 2, n=100, batch_size=2, checkpoint_interval=5)
    assert [call.checkpoints for call in calls] == [5, 5]
    assert calls[0].batches[:6] == [0, 1, 2, 3, 4, 10]


# 3. only the chief reports progress


@pytest.mark.parametrize("batch_size", [10, 20])
def test_only_chief_reports_progress(output, batch_size):
    progress = [Progress(), Progress()]
    run_ranks(output, 2, n=50, batch_size=batch_size, callbacks=lambda rank: {"p": progress[rank]})
    assert progress[1].snapshots == []
    last = progress[0].snapshots[-1]
    assert (last.done, last.total, last.finished) == (50, 50, True)


# 5. completed batches are skipped


@pytest.mark.parametrize(("size", "left"), [(1, [[2, 3, 4]]), (2, [[2, 4], [3]])])
def test_skips_completed_batches(output, size, left):
    first = run_ranks(output, 1, n=50, batch_size=10, callbacks=lambda rank: {"stop": StopAt(2)})
    assert first[0].batches == [0, 1]
    calls = run_ranks(output, size, n=50, batch_size=10)
    assert [call.batches for call in calls] == left
    assert [call.finishes for call in calls] == [1] * size
    assert values_of(output) == list(range(50))


def test_a_rank_with_nothing_left_still_finishes(output):
    run_ranks(output, 1, n=50, batch_size=10, callbacks=lambda rank: {"stop": StopAt(4)})
    calls = run_ranks(output, 2, n=50, batch_size=10)
    assert [call.batches for call in calls] == [[4], []]
    assert [call.checkpoints for call in calls] == [1, 0]
    assert [call.finishes for call in calls] == [1, 1]


# 6. and 7. max_batches is per worker; one that fits no worker is ignored with a warning


def test_follows_valid_max_batches(output):
    calls = run_ranks(output, 2, n=50, batch_size=10, max_batches=2)
    assert [len(call.batches) for call in calls] == [2, 2]
    assert values_of(output) == list(range(40))


@pytest.mark.parametrize("max_batches", [10, 0, -1])
def test_ignores_invalid_max_batches_with_a_warning(output, max_batches):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        calls = run_ranks(output, 1, n=50, batch_size=20, max_batches=max_batches)
    assert [len(call.batches) for call in calls] == [3]
    (warning,) = [w for w in told if "max_batches" in str(w.message)]
    assert "Ignoring this argument and iterate over entire dataset once" in str(warning.message)


# 8. preemption


def test_preemption(output):
    stop = {"stop": StopAt(2)}
    calls = run_ranks(output, 1, n=100, batch_size=10, checkpoint_interval=2, callbacks=lambda rank: stop, reducer=True)
    assert calls[0].batches == [0, 1, 2, 3]
    assert calls[0].finishes == 0
    result = calls[0].result
    assert (result.complete, result.coverage, result.exit_code) == (False, 0.4, 75)
    assert result.stop_reason == "asked to"
    # The seed reports the metrics of what was seen so far as if they were final; nothing final is known yet.
    assert result.metrics == {}
    resumed = run_ranks(output, 1, n=100, batch_size=10, checkpoint_interval=2, reducer=True)
    assert resumed[0].batches == [4, 5, 6, 7, 8, 9]
    assert resumed[0].result.metrics == {"sum_metric": sum(range(100))}


# 9. metrics of all ranks are reduced and reported once


def test_reduce_metrics(output):
    calls = run_ranks(output, 2, n=10, batch_size=5, reducer=True)
    assert [call.batches for call in calls] == [[0], [1]]  # sums 10 and 35
    assert [call.result.metrics for call in calls] == [{"sum_metric": 45}] * 2
    tracker = client.connect(str(output))
    try:
        (report,) = tracker.iter_metrics(run_id="run", group="validation")
    finally:
        client.disconnect()
    assert (report.steps_completed, report.metrics) == (2, {"sum_metric": 45})


# 10. invalid checkpoint_interval


@pytest.mark.parametrize("interval", [-1, 0])
def test_invalid_checkpoint_interval(output, interval):
    with pytest.raises(ValueError, match="checkpoint_interval should be a positive integer"):
        torch_batch_process(Echo, DATASET, 10, checkpoint_interval=interval, output=output)


# 11. to 14. the context


def test_context_moves_data_and_prepares_models(output):
    seen = {}

    class Prepared(Echo):
        def __init__(self, context):
            model = torch.nn.Dropout()
            seen["same"] = context.prepare_model_for_inference(model) is model
            seen["training"] = model.training
            moved = context.to_device({"a": [torch.ones(1)], "b": (torch.zeros(2), "text")})
            seen["devices"] = {moved["a"][0].device, moved["b"][0].device}
            seen["device"] = context.device

    torch_batch_process(Prepared, DATASET, 50, output=output, device="cpu")
    assert seen == {
        "same": True,
        "training": False,
        "devices": {torch.device("cpu")},
        "device": torch.device("cpu"),
    }


def test_upload_path_commits_files_with_their_chunk(output):
    class Uploading(Echo):
        def __init__(self, context):
            self.context, self.seen = context, []

        def process_batch(self, batch, batch_idx):
            self.seen += batch[0].tolist()

        def on_checkpoint_start(self):
            with self.context.upload_path() as path:
                self.directory = path
                (path / f"seen-{self.seen[-1]}").write_text(str(self.seen))
            assert not path.exists()
            self.seen = []

    result = torch_batch_process(Uploading, DATASET, 25, output=output, run_id="run")
    files = sorted(Path(result.path, "files").rglob("seen-*"))
    assert [file.name for file in files] == ["seen-24", "seen-49"]
    assert [file.relative_to(result.path).parts[1] for file in files] == ["00000000", "00000001"]
    assert files[1].read_text() == str(list(range(25, 50)))


# 15. the default device


@pytest.mark.parametrize(("cuda", "local_rank", "device"), [(0, 1, "cpu"), (2, 0, "cuda:0"), (2, 1, "cuda:1")])
def test_default_device(monkeypatch, cuda, local_rank, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert default_device(local_rank) == torch.device(device)
    assert choose_device("auto", local_rank) == torch.device(device)


# What the seed refuses with a bare Exception


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Unsized(Dataset):
    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("dataset", [Stream(), Unsized(), DataLoader(Unsized(), batch_sampler=[[0]])])
def test_a_dataset_without_numbers_is_refused(output, dataset):
    with pytest.raises(ConfigError, match=r"must implement __len__|has no __getitem__"):
        torch_batch_process(Echo, dataset, 10, output=output)
