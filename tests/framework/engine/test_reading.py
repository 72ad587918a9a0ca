import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ChainDataset, Dataset, IterableDataset, Subset, TensorDataset

from batchmill import ConfigError
from batchmill.engine.grid import Grid
from batchmill.engine.ranges import ReadFailure, range_reader
from batchmill.engine.reading import BatchSource, check_dataset

# Loader processes are forked beside the commit thread; Python warns of that from 3.12 on.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def class_name(value):
    return type(value).__name__


class Squares(Dataset):
    """Only what every dataset has."""

    def __init__(self, length=20):
        self.length = length
        self.asked = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append(index)
        return {"x": torch.tensor(float(index)), "square": index * index}


class Items(Squares):
    def __getitems__(self, indices):
        self.asked.append(list(indices))
        return [{"x": torch.tensor(float(index))} for index in indices]


class Ranges(Items):
    def read_batch(self, start, stop):
        self.asked.append((start, stop))
        return {"x": torch.arange(start, stop)}


def read_all(source, chunks):
    try:
        return list(source.read(iter(chunks)))
    finally:
        source.close()


def test_tensors_are_sliced_without_any_work_per_sample(monkeypatch):
    def refuse(self, index):
        raise AssertionError("asked for a single sample")

    monkeypatch.setattr(TensorDataset, "__getitem__", refuse)
    tensors = torch.arange(20.0).reshape(10, 2), torch.arange(10)
    read = range_reader(TensorDataset(*tensors), None)
    x, y = read(3, 7)
    assert torch.equal(x, tensors[0][3:7]) and torch.equal(y, tensors[1][3:7])
    assert x.data_ptr() == tensors[0][3:].data_ptr(), "a view, not a copy"


def test_a_subclass_that_changes_its_samples_is_asked_for_them():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return [value * 2 for value in super().__getitem__(index)]

    (x,) = range_reader(Doubled(torch.arange(4.0)), None)(0, 3)
    assert x.tolist() == [0, 2, 4]


def test_a_range_is_read_in_one_call_where_the_dataset_can():
    dataset = Ranges()
    assert range_reader(dataset, None)(2, 5)["x"].tolist() == [2, 3, 4]
    assert dataset.asked == [(2, 5)]


def test_items_are_asked_for_in_one_call_where_the_dataset_can():
    dataset = Items()
    assert range_reader(dataset, None)(2, 5)["x"].tolist() == [2, 3, 4]
    assert dataset.asked == [[2, 3, 4]]


def test_any_dataset_is_read_sample_by_sample():
    dataset = Squares()
    batch = range_reader(dataset, None)(2, 5)
    assert batch["x"].tolist() == [2, 3, 4] and batch["square"].tolist() == [4, 9, 16]
    assert dataset.asked == [2, 3, 4]


@pytest.mark.parametrize(
    "dataset",
    [Squares(), Items(), Ranges(), TensorDataset(torch.arange(20))],
    ids=class_name,
)
def test_a_collate_function_always_sees_samples(dataset):
    batch = range_reader(dataset, lambda samples: [type(sample).__name__ for sample in samples])(0, 2)
    assert batch in (["dict", "dict"], ["tuple", "tuple"])


def test_a_subset_keeps_its_order():
    subset = Subset(TensorDataset(torch.arange(10)), [7, 3, 5])
    assert range_reader(subset, None)(0, 3)[0].tolist() == [7, 3, 5]


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 4), st.data())
def test_every_batch_of_the_chunks_is_read_once_in_order(samples, batch_size, chunk_batches, data):
    grid = Grid(samples, batch_size, chunk_batches)
    chunks = data.draw(st.lists(st.integers(0, grid.chunks - 1), unique=True)) if grid.chunks else []
    found = read_all(BatchSource(TensorDataset(torch.arange(samples)), grid, {}), chunks)
    assert [(chunk, batch) for chunk, batch, _ in found] == [
        (chunk, batch) for chunk in chunks for batch in range(*grid.chunk_batch_range(chunk))
    ]
    for _, batch_idx, (values,) in found:
        assert values.tolist() == list(range(*grid.batch_range(batch_idx)))


def test_the_next_chunk_is_claimed_only_when_it_is_needed():
    grid, claimed = Grid(20, 5, 2), []

    def claims():
        for chunk in range(grid.chunks):
            claimed.append(chunk)
            yield chunk

    batches = BatchSource(Squares(), grid, {}).read(claims())
    next(batches), next(batches)
    assert claimed == [0]
    next(batches)
    assert claimed == [0, 1]


class Failing(Squares):
    def __getitem__(self, index):
        if index == 13:
            raise OSError("image 13 is truncated")
        return index


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}], ids=["here", "processes"])
def test_an_error_in_a_dataset_comes_in_place_of_its_batch(options):
    source = BatchSource(Failing(), Grid(20, 5, 2), options)
    found = read_all(source, [0, 1])
    assert [batch_idx for _, batch_idx, _ in found] == [0, 1, 2, 3]
    failures = [(batch_idx, batch) for _, batch_idx, batch in found if isinstance(batch, ReadFailure)]
    assert [batch_idx for batch_idx, _ in failures] == [2], "only the batch that holds it"
    assert (failures[0][1].error, failures[0][1].message) == ("OSError", "image 13 is truncated")
    assert 'raise OSError("image 13 is truncated")' in failures[0][1].trace


def test_a_collate_function_may_return_none():
    found = read_all(BatchSource(Squares(), Grid(20, 5, 2), {"collate_fn": lambda samples: None}), [0, 1])
    assert [(batch, value) for _, batch, value in found] == [(0, None), (1, None), (2, None), (3, None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_worker": 2}, "unexpected keyword argument 'num_worker'"),
        ({"num_workers": -1}, "num_workers"),
        ({"prefetch_factor": 2}, "prefetch_factor"),
        ({"batch_size": 3}, "batch_size"),
        ({"sampler": [1, 2]}, "sampler"),
        ({"num_workers": 2, "in_order": False}, "in_order"),
        ({"drop_last": True}, "drop_last"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        BatchSource(Squares(), Grid(20, 5, 1), options)


class Stream(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter([1, 2, 3])


class NoItems:
    def __len__(self):
        return 3


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), r"Stream cannot be run: a dataset must implement __len__\(\) and __getitem__"),
        (ChainDataset([Stream()]), "ChainDataset cannot be run"),
        (iter([1, 2]), "list_iterator cannot be run"),
        ((i for i in range(3)), "generator cannot be run"),
        (Dataset(), "Dataset cannot be run"),
        (NoItems(), "NoItems has no __getitem__"),
        (Squares, "class Squares, not an instance"),
        (None, "NoneType cannot be run"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_without_numbered_samples_are_refused(dataset, message):
    with pytest.raises(ConfigError, match=message):
        check_dataset(dataset)


@pytest.mark.parametrize(
    "dataset",
    [Squares(7), TensorDataset(torch.zeros(7)), list(range(7)), np.zeros(7)],
    ids=class_name,
)
def test_the_length_is_known_of_any_sized_dataset(dataset):
    assert check_dataset(dataset) == 7
