"""Picking single samples reads what reading ranges reads."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from batchmill import OutputError
from batchmill.engine.ranges import ReadFailure, range_reader

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
