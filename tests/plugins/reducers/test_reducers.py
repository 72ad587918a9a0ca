"""What every column reducer promises, and each one's own result, against plain Python."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import batchmill
from batchmill import ConfigError, ReducerError
from batchmill.plugin_manager import Catalog, make_run_manager
from batchmill_plugins import reducers
from batchmill_plugins.reducers._aggregates import Count, Max, Mean, Min, Sum
from batchmill_plugins.reducers._classification import Accuracy, ConfusionMatrix
from batchmill_plugins.reducers._histogram import Histogram

numbers = st.floats(min_value=-1e300, max_value=1e300)


def reduce_in_chunks(reducer, chunks):
    """Return the metric of chunks (lists of batches, each the arguments of update), as the engine does."""
    partials = []
    for batches in chunks:
        reducer.reset()
        for batch in batches:
            reducer.update(*batch)
        partials.append(json.loads(json.dumps(reducer.per_slot_reduce(), allow_nan=False)))
        reducer.reset()
    result = reducer.cross_slot_reduce(partials)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert not isinstance(result, dict)
    return result


def split(values, cuts):
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    return [values[a:b] for a, b in itertools.pairwise(edges)]


def result_of(reducer, *columns):
    return reduce_in_chunks(reducer, [[columns]])


@pytest.fixture(scope="module")
def registry():
    catalog = Catalog()
    catalog.register(reducers, "reducers")
    return catalog.registry


SETTINGS = {
    "count": {"column": "x"},
    "sum": {"column": "x"},
    "mean": {"column": "x"},
    "min": {"column": "x"},
    "max": {"column": "x"},
    "accuracy": {"prediction": "x", "target": "y"},
    "confusion_matrix": {"prediction": "x", "target": "y", "labels": 3},
    "histogram": {"column": "x", "bins": 2, "low": 0.0, "high": 2.0},
}
RESULTS = {
    "count": 3,
    "sum": 3.0,
    "mean": 1.0,
    "min": 0,
    "max": 2,
    "accuracy": 2 / 3,
    "confusion_matrix": [[1, 1, 0], [0, 0, 0], [0, 0, 1]],
    "histogram": [0, 1, 2, 0],
}


def test_every_registered_reducer_is_listed_here(registry):
    of_rows = {"quantile", "roc_auc"}  # see test_row_reducers.py
    assert set(registry.names(batchmill.Kind.REDUCER)) - of_rows == set(SETTINGS) == set(RESULTS)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_selected_by_name_and_driven_by_the_run_manager(registry, name):
    component = registry.get(batchmill.Kind.REDUCER, name)
    settings = vars(component.schema(**SETTINGS[name]))
    reducer = component.load()(**settings)
    manager = make_run_manager([(f"reducers.{name}", reducer)])
    outputs, batch = {"x": torch.tensor([0, 1, 2])}, {"x": torch.tensor([9, 9, 9]), "y": [0, 0, 2]}
    manager.hook.on_batch_end(outputs=outputs, batch=batch, batch_idx=0)
    assert reducer.cross_slot_reduce([reducer.per_slot_reduce()]) == RESULTS[name]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_partials_start_afresh_after_reset(registry, name):
    component = registry.get(batchmill.Kind.REDUCER, name)
    reducer = component.load()(**SETTINGS[name])
    empty = reducer.per_slot_reduce()
    reducer.update(*[torch.tensor([0, 1, 2])] * len(reducer.columns))
    assert reducer.per_slot_reduce() != empty
    reducer.reset()
    assert reducer.per_slot_reduce() == empty


def test_no_samples():
    for reducer in (Sum("x"), Mean("x"), Min("x"), Max("x"), Accuracy()):
        assert reducer.cross_slot_reduce([]) is None
        empty = [torch.empty(0)] * len(reducer.columns)
        assert reduce_in_chunks(reducer, [[], [empty]]) is None
    assert reduce_in_chunks(Count("x"), [[]]) == 0
    assert ConfusionMatrix(labels=2).cross_slot_reduce([]) == [[0, 0], [0, 0]]
    assert ConfusionMatrix().cross_slot_reduce([[]]) == []
    assert Histogram("x", 2, 0, 1).cross_slot_reduce([]) == [0, 0, 0, 0]


@given(st.lists(numbers, min_size=1), st.lists(st.integers(0, 50)))
def test_aggregates_do_not_depend_on_chunks(values, cuts):
    chunks = [[(torch.tensor(part, dtype=torch.float64),)] for part in split(values, cuts)]
    mean = sum(map(Fraction, values)) / len(values)
    assert reduce_in_chunks(Sum("x"), chunks) == math.fsum(values)
    assert reduce_in_chunks(Mean("x"), chunks) == mean.numerator / mean.denominator
    assert reduce_in_chunks(Min("x"), chunks) == min(values)
    assert reduce_in_chunks(Max("x"), chunks) == max(values)
    assert reduce_in_chunks(Count("x"), chunks) == len(values)


@given(st.permutations([0.0, -0.0]), st.sampled_from([Min, Max]))
def test_extremes_of_signed_zeros_do_not_depend_on_order(values, kind):
    result = reduce_in_chunks(kind("x"), [[([value],)] for value in values])
    assert math.copysign(1, result) == 1


@pytest.mark.parametrize(("kind", "expected"), [(Min, 0), (Max, 1)])
def test_extremes_of_integers_among_floats_do_not_depend_on_order(kind, expected):
    batches = [[0, 1], [0.0, 1.0], [False, True]]
    for order in itertools.permutations(batches):
        assert repr(reduce_in_chunks(kind("x"), [[(values,)] for values in order])) == str(expected)
        assert repr(reduce_in_chunks(kind("x"), [[(values,) for values in order]])) == str(expected)


LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)))


@given(LABELS, st.lists(st.integers(0, 50)))
def test_label_metrics_do_not_depend_on_chunks(pairs, cuts):
    chunks = [[([p for p, _ in part], [t for _, t in part])] for part in split(pairs, cuts)]
    matrix = [[pairs.count((p, t)) for p in range(5)] for t in range(5)]
    assert reduce_in_chunks(ConfusionMatrix(labels=5), chunks) == matrix
    seen = max((max(pair) for pair in pairs), default=-1) + 1
    assert reduce_in_chunks(ConfusionMatrix(), chunks) == [row[:seen] for row in matrix[:seen]]
    expected = sum(p == t for p, t in pairs) / len(pairs) if pairs else None
    assert reduce_in_chunks(Accuracy(), chunks) == expected


@given(st.lists(st.floats(allow_nan=False, width=32)), st.lists(st.integers(0, 50)))
def test_histogram_does_not_depend_on_chunks(values, cuts):
    chunks = [[(torch.tensor(part, dtype=torch.float32),)] for part in split(values, cuts)]
    edges = [-1.0, -0.5, 0.0, 0.5, 1.0]
    expected = [sum(v < -1 for v in values)]
    expected += [sum(a <= v < b for v in values) for a, b in itertools.pairwise(edges)]
    expected[-1] += sum(v == 1 for v in values)
    expected.append(sum(v > 1 for v in values))
    assert reduce_in_chunks(Histogram("x", 4, -1, 1), chunks) == expected


def test_values_of_any_holder():
    expected = 1 + 2 + 3 + 4
    for values in (
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16, requires_grad=True),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.float8_e4m3fn),
        np.array([[1, 2], [3, 4]], np.float16),
        [[1, 2], [3, 4]],
        [[1], [2, 3, 4]],
        [torch.tensor([1.0]), torch.tensor([2, 3, 4], dtype=torch.bfloat16)],
        [torch.tensor(3.0), torch.tensor(7.0)],
        [np.array([1, 2]), [3, 4]],
        ([3, 7]),
    ):
        assert result_of(Sum("x"), values) == expected
        assert result_of(Count("x"), values) == 2
    assert result_of(Mean("x"), [[1], [2, 3, 4]]) == 2.5
    assert result_of(Max("x"), torch.tensor([2**62 + 1, 0])) == 2**62 + 1
    assert result_of(Min("x"), torch.tensor([True, False])) == 0
    assert result_of(Count("x"), ["a", None]) == 2


def test_labels_of_any_holder():
    assert result_of(Accuracy(), ["a", "b"], ["a", "c"]) == 0.5
    assert result_of(Accuracy(), np.array(["a", "b"]), ["a", "b"]) == 1.0
    assert result_of(Accuracy(), torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 5]]) == 0.75
    assert result_of(Accuracy(), torch.tensor([True]), np.array([1])) == 1.0
    names = ConfusionMatrix(labels=["cat", "dog"])
    assert result_of(names, ["dog", "dog"], ["cat", "dog"]) == [[0, 1], [0, 1]]
    assert result_of(names, torch.tensor([1, 1]), torch.tensor([0, 1])) == [[0, 1], [0, 1]]
    assert result_of(ConfusionMatrix(labels=[7, 3]), [3, 3], [7, 3]) == [[0, 1], [0, 1]]


BAD_COLUMNS = [
    (torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), "'x': it holds nan at row 1"),
    (np.array([0, -math.inf]), "holds -inf at row 1"),
    ([[1.0], [2.0, math.nan], [3.0]], "holds nan at row 1"),
    ([1.0, None], "holds None; expected numbers at row 1"),
    ([1, "a"], "holds 'a'; expected numbers at row 1"),
    ([torch.zeros(2), "a"], "holds 'a'; expected numbers at row 1"),
    ([2**70], f"holds {2**70}; expected numbers at row 0"),
    (np.array(["a"]), "holds <U1; expected numbers"),
    (torch.tensor([1j]), "holds complex64; expected numbers"),
    (torch.tensor(3.0), r"single value \(Tensor of shape \(\)\); expected one value for each sample"),
    (3.0, r"single value \(float\)"),
    ("abc", r"single value \(str\)"),
]


@pytest.mark.parametrize("kind", [Sum, Mean, Min, Max])
@pytest.mark.parametrize(("values", "message"), BAD_COLUMNS)
def test_bad_numbers_are_refused_with_their_place(kind, values, message):
    reducer = kind("x")
    with pytest.raises(ReducerError, match=message):
        reducer.update(values)
    before = reducer.per_slot_reduce()
    manager = make_run_manager([("reducers.x", reducer)])
    with pytest.raises(ReducerError, match=r"of batch 17\.|in batch 17\."):
        manager.hook.on_batch_end(outputs={"x": values}, batch=None, batch_idx=17)
    assert reducer.per_slot_reduce() == before


def test_count_and_histogram_refusals():
    with pytest.raises(ReducerError, match="expected one value for each sample"):
        Count("x").update(torch.tensor(1))
    with pytest.raises(ReducerError, match="holds nan at row 0 of the batch"):
        Histogram("x", 1, 0, 1).update([math.nan])
    with pytest.raises(ReducerError, match="expected numbers"):
        Histogram("x", 1, 0, 1).update(["a"])


@pytest.mark.parametrize(
    ("reducer", "prediction", "target", "message"),
    [
        (Accuracy(), torch.zeros(2, 10), torch.zeros(2), r"\[2, 10\] and \[2\].*argmax"),
        (Accuracy(), ["a"], [0], "strings and the other numbers"),
        (Accuracy(), [math.nan], [0.0], "'prediction': it holds nan at row 0"),
        (Accuracy(), ["a", 1], ["a", "b"], "'prediction': it holds 1 among strings at row 1"),
        (Accuracy(), [0, None], [0, 1], "holds None; expected numbers or strings at row 1"),
        (Accuracy(), [[1], [1, 2]], [0, 1], "holds samples of different shapes"),
        (Accuracy(), 1, [0], "single value"),
        (
            ConfusionMatrix(labels=2),
            [0, 2],
            [0, 1],
            "'prediction': it holds 2; expected classes 0 to 1 at row 1",
        ),
        (
            ConfusionMatrix(labels=2),
            [0, 1],
            [0, -1],
            "'label': it holds -1; expected classes 0 to 1 at row 1",
        ),
        (ConfusionMatrix(), [10**6], [0], "expected classes 0 to 4095 .*give their number as labels"),
        (ConfusionMatrix(), ["a"], ["a"], "labels must list the classes"),
        (ConfusionMatrix(labels=["a"]), ["b"], ["a"], "holds b; expected a at row 0"),
        (ConfusionMatrix(), [0.5], [0.5], "holds float64; expected integers or strings"),
    ],
)
def test_bad_labels_are_refused_with_their_place(reducer, prediction, target, message):
    before = reducer.per_slot_reduce()
    with pytest.raises(ReducerError, match=message):
        reducer.update(prediction, target)
    assert reducer.per_slot_reduce() == before


@pytest.mark.parametrize("labels", [0, -1, True, [], ["a", "a"], ["a", 1], "ab", 2.0])
def test_bad_label_settings(labels):
    with pytest.raises(ConfigError, match="labels of confusion_matrix is"):
        ConfusionMatrix(labels=labels)


@pytest.mark.parametrize(
    "settings",
    [(0, 0, 1), (1, 1, 1), (1, 2, 1), (1, 0, math.inf), (1, math.nan, 1), (100, 1.0, 1.0 + 2**-50)],
)
def test_bad_histogram_settings(settings):
    with pytest.raises(ConfigError, match="histogram of 'x' has"):
        Histogram("x", *settings)


def test_sum_beyond_float_is_a_reducer_error():
    with pytest.raises(ReducerError, match="Sum of column 'x': the exact sum is beyond"):
        result_of(Sum("x"), torch.full((2,), 1.7e308, dtype=torch.float64))
