"""Picking single samples reads what reading ranges reads."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from batchmill import OutputError
from batchmill.engine.grid import Grid
from batchmill.engine.ranges import ReadFailure, range_reader
from batchmill.engine.reading import BatchSource

N = 12


class Items(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"x": torch.tensor([index, -index]), "name": f"n{index}"}


class ManyItems(Items):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Batches:
    """Reads ranges only, as the file datasets do."""

    def __len__(self):
        return N

    def read_batch(self, start, stop):
        return {
            "x": torch.arange(start, stop),
            "y": np.arange(start, stop) * 2,
            "t": [f"{i}" for i in range(start, stop)],
        }


class Opaque(Batches):
    def read_batch(self, start, stop):
        return object()


DATASETS = {"items": Items(), "many": ManyItems(), "ranges": Batches(), "tensors": TensorDataset(torch.arange(N) * 3)}


def plain(batch):
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return batch.tolist()
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    return [plain(value) for value in batch] if isinstance(batch, (list, tuple)) else batch


@pytest.mark.parametrize("name", DATASETS)
@given(indices=st.lists(st.integers(0, N - 1), min_size=1, max_size=8))
def test_pick_is_the_rows_of_the_indices_in_order(name, indices):
    read = range_reader(DATASETS[name], None)
    columns = plain(read.pick(indices))
    columns = columns if isinstance(columns, dict) else dict(enumerate(columns))
    one_by_one = [plain(read(index, index + 1)) for index in indices]
    one_by_one = [row if isinstance(row, dict) else dict(enumerate(row)) for row in one_by_one]
    assert columns == {key: [row[key][0] for row in one_by_one] for key in columns}


@pytest.mark.parametrize("name", DATASETS)
def test_pick_of_a_range_is_that_range(name):
    read = range_reader(DATASETS[name], None)
    assert plain(read.pick(range(3, 8))) == plain(read(3, 8))


def test_a_file_dataset_is_asked_for_runs_of_samples_not_for_each():
    asked = []

    class Told(Batches):
        def read_batch(self, start, stop):
            asked.append((start, stop))
            return super().read_batch(start, stop)

    range_reader(Told(), None).pick([7, 2, 3, 3, 4, 9])
    assert asked == [(2, 5), (7, 8), (9, 10)]


def test_picked_tensors_have_the_strides_of_slices():
    """Strides choose the kernel of a matrix product, and with it the bits."""
    read = range_reader(TensorDataset(torch.randn(16, 64).t()), None)
    (whole,), (picked,), (doubled,) = read(8, 16), read.pick(range(8, 16)), read.pick([8, 8, 10, 11, 12, 13, 14, 15])
    assert picked.stride() == whole.stride() == (1, 64)
    assert torch.equal(doubled[1:], torch.cat([whole[:1], whole[2:]]))
    assert doubled.stride()[0] == 1 < doubled.stride()[1], "still column by column"


def test_rows_that_cannot_be_told_apart_are_no_samples_fault():
    with pytest.raises(OutputError) as caught:
        range_reader(Opaque(), None).pick([1, 1])
    assert ReadFailure.of(caught.value, here=True).of_rows
    assert not ReadFailure.of(OSError("bad sector"), here=True).of_rows


def test_a_failure_that_travels_leaves_its_exception_behind():
    error = OSError("bad sector")
    assert ReadFailure.of(error, here=True).cause is error
    away = ReadFailure.of(error, here=False)
    assert (away.error, away.message, away.cause) == ("OSError", "bad sector", None)
    assert away == ReadFailure.of(error, here=True)


class Tensors(Dataset):
    """Views of one tensor, which are cheaper to make in inference mode."""

    def __init__(self):
        self.data = torch.arange(2.0 * N).reshape(N, 2)

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"x": self.data[index], "name": f"n{index}"}


class Slopes(Tensors):
    """The code of the dataset itself needs gradients."""

    def __getitem__(self, index):
        x = self.data[index].clone().requires_grad_()
        (slope,) = torch.autograd.grad((x**2).sum(), x)
        return slope


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_batches_are_fit_for_gradients_however_samples_are_read(workers):
    source = BatchSource(Tensors(), Grid(N, 4, 3), {"num_workers": workers} if workers else {})
    try:
        batches = [batch for _, _, batch in source.read(iter([0]))]
    finally:
        source.close()
    weight = torch.ones(2, requires_grad=True)
    for number, batch in enumerate(batches):
        assert batch["name"] == [f"n{index}" for index in range(4 * number, 4 * number + 4)]
        assert not batch["x"].is_inference()
        (batch["x"].requires_grad_() * weight).sum().backward()
        batch["x"].detach().add_(1)
    assert len(batches) == 3


def test_a_dataset_may_compute_gradients_itself():
    data = torch.arange(2.0 * N).reshape(N, 2)
    assert torch.equal(range_reader(Slopes(), None)(3, 7), 2 * data[3:7])


def test_a_collate_function_gets_samples_that_are_fit_for_gradients():
    def collate(samples):
        return [sample["x"] for sample in samples]

    first, _ = range_reader(Tensors(), collate)(0, 2)
    assert not first.is_inference()
