import torch
from torch.utils.data import TensorDataset

from batchmill.contracts.dataset import BatchReadable, Identified, SizedDataset


class Ranged:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index

    def read_batch(self, start, stop):
        return list(range(start, stop))

    def identity(self):
        return {"rows": 3}


def test_what_a_dataset_offers_is_seen_from_its_methods():
    assert all(isinstance(Ranged(), kind) for kind in (SizedDataset, BatchReadable, Identified))
    tensors = TensorDataset(torch.zeros(3))
    assert isinstance(tensors, SizedDataset)
    assert not isinstance(tensors, BatchReadable) and not isinstance(tensors, Identified)
    assert isinstance([1, 2], SizedDataset) and not isinstance(iter([1]), SizedDataset)
