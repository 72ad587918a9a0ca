import pickle

import pytest
import torch


def as_lists(batch):
    return {name: values.tolist() if isinstance(values, torch.Tensor) else values for name, values in batch.items()}


@pytest.fixture
def check_dataset():
    """A check of what every dataset in files promises, given the rows it must hold."""

    def check(dataset, rows):
        assert len(dataset) == len(rows)
        names = list(rows[0])
        for start, stop in {(0, len(rows)), (0, 1), (len(rows) - 1, len(rows)), (len(rows) // 2, len(rows))}:
            batch = dataset.read_batch(start, stop)
            assert list(batch) == names
            assert as_lists(batch) == {name: [row[name] for row in rows[start:stop]] for name in names}
        for index, row in enumerate(rows):
            assert as_lists(dataset[index]) == row
        for bad in ((-1, 1), (0, 0), (1, len(rows) + 1), (len(rows), len(rows) + 1)):
            with pytest.raises(IndexError, match=f"of a dataset with {len(rows)} samples"):
                dataset.read_batch(*bad)
        # Batches own their memory: changing one leaves the data as it is.
        batch = dataset.read_batch(0, len(rows))
        for values in batch.values():
            if isinstance(values, torch.Tensor):
                values.zero_()
        assert as_lists(dataset.read_batch(0, 1)) == {name: [value] for name, value in rows[0].items()}
        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes; how spawn sends it
        assert as_lists(copy.read_batch(0, 1)) == {name: [value] for name, value in rows[0].items()}
        assert copy.identity() == dataset.identity()

    return check
