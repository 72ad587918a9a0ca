import pytest
import torch

from batchmill import ColumnReducer, MetricReducer, ReducerError, hookimpl
from batchmill.plugin_manager import make_run_manager


class Pairs(ColumnReducer):
    """Keeps what it is given."""

    def __init__(self, *columns):
        super().__init__(*columns)
        self.reset()

    def reset(self):
        self.seen = []

    def update(self, *values):
        self.seen.append(values)

    def per_slot_reduce(self):
        return len(self.seen)

    def cross_slot_reduce(self, per_slot_metrics):
        return sum(per_slot_metrics)


def test_columns_are_looked_up_in_the_output_and_then_in_the_batch():
    reducer = Pairs("score", "label")
    hooks = make_run_manager([("reducers.pairs", reducer)])
    score, label = torch.ones(2), ["a", "b"]
    hooks.hook.on_batch_end(outputs={"score": score}, batch={"score": None, "label": label}, batch_idx=0)
    assert reducer.seen == [(score, label)]


@pytest.mark.parametrize("outputs", [None, torch.ones(2), [1, 2]])
def test_outputs_without_names_leave_the_batch(outputs):
    reducer = Pairs("label")
    reducer.on_batch_end(outputs=outputs, batch={"label": [1, 2]})
    assert reducer.seen == [([1, 2],)]


def test_a_missing_column_is_named_with_those_there_are():
    message = r"Pairs reads column 'labels', .* Did you mean 'label'\? Available: score, label"
    with pytest.raises(ReducerError, match=message):
        Pairs("labels").on_batch_end(outputs={"score": 1}, batch={"label": 2})
    with pytest.raises(ReducerError, match="Available: no named columns"):
        Pairs("labels").on_batch_end(outputs=None, batch=[torch.ones(2)])


def test_a_reducer_that_leaves_out_a_method_cannot_be_made():
    class Half(MetricReducer):
        def reset(self):
            pass

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_a_subclass_may_listen_in_its_own_way():
    class Counting(Pairs):
        @hookimpl
        def on_batch_end(self, batch_idx):
            self.update(batch_idx)

    reducer = Counting()
    make_run_manager([("reducers.counting", reducer)]).hook.on_batch_end(outputs=None, batch=None, batch_idx=4)
    assert reducer.seen == [(4,)]
