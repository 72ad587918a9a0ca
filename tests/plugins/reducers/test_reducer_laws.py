"""Every first-party reducer keeps the law that it declares."""

import numpy as np
from hypothesis import strategies as st

from batchmill import Law
from batchmill.components import Kind
from batchmill.plugin_manager import get_catalog
from batchmill.testing.reducer_suite import ReducerSuite
from batchmill_plugins.reducers._aggregates import Count, Max, Mean, Min, Sum
from batchmill_plugins.reducers._classification import Accuracy, ConfusionMatrix
from batchmill_plugins.reducers._histogram import Histogram
from batchmill_plugins.reducers._rows import Quantile, RocAuc

# Values whose plain float sums depend on their order, both zeros, and ties between integers and floats.
awkward = st.sampled_from([0.0, -0.0, 1.0, 1e16, -1e16, 0.1, 1e-300, -1e300])
floats = awkward | st.floats(-1e300, 1e300)
integers = st.sampled_from([0, 1, 2**53 + 1, -(2**53) - 1, 2**62]) | st.integers(-(2**63), 2**63 - 1)
rows = st.lists(floats, max_size=5) | st.lists(integers, max_size=5) | st.lists(st.booleans(), max_size=3)


class OfColumns(ReducerSuite):
    def feed(self, reducer, batch):
        reducer.update(*batch)


class OfNumbers(OfColumns):
    def batches(self):
        return st.tuples(rows)


class TestCountLaw(OfNumbers):
    def make_reducer(self):
        return Count("x")


class TestSumLaw(OfNumbers):
    def make_reducer(self):
        return Sum("x")


class TestMeanLaw(OfNumbers):
    def make_reducer(self):
        return Mean("x")


class TestMinLaw(OfNumbers):
    def make_reducer(self):
        return Min("x")


class TestMaxLaw(OfNumbers):
    def make_reducer(self):
        return Max("x")


class TestHistogramLaw(OfNumbers):
    def make_reducer(self):
        return Histogram("x", bins=3, low=-1.0, high=2.0)


def pairs_of(labels):
    pairs = st.lists(st.tuples(labels, labels), max_size=5)
    return pairs.map(lambda rows: ([row[0] for row in rows], [row[1] for row in rows]))


class TestAccuracyLaw(OfColumns):
    def make_reducer(self):
        return Accuracy()

    def batches(self):
        return pairs_of(st.integers(0, 3)) | pairs_of(st.sampled_from("ab"))


class TestConfusionMatrixLaw(OfColumns):
    def make_reducer(self):
        return ConfusionMatrix()

    def batches(self):
        return pairs_of(st.integers(0, 3))


class TestConfusionMatrixOfNamesLaw(OfColumns):
    def make_reducer(self):
        return ConfusionMatrix(labels=["b", "a"])

    def batches(self):
        return pairs_of(st.sampled_from("ab"))


class TestQuantileLaw(ReducerSuite):
    def make_reducer(self):
        return Quantile("x", [0.0, 0.3, 1.0])

    def batches(self):
        return st.fixed_dictionaries({"x": st.lists(floats, max_size=5).map(lambda x: np.array(x, np.float64))})


class TestRocAucLaw(ReducerSuite):
    def make_reducer(self):
        return RocAuc()

    def batches(self):
        scored = st.lists(st.tuples(awkward, st.integers(0, 1)), max_size=6)
        return scored.map(
            lambda rows: {
                "score": np.array([r[0] for r in rows], np.float64),
                "label": np.array([r[1] for r in rows], np.int64),
            }
        )


def test_every_registered_reducer_declares_its_law():
    ours = [
        each
        for each in get_catalog().registry
        if each.kind is Kind.REDUCER and "batchmill_plugins" in str(each.factory)
    ]
    exact = {"count", "sum", "mean", "min", "max", "accuracy", "confusion_matrix", "histogram"}
    assert {each.name: each.load().law for each in ours} == {
        **dict.fromkeys(exact, Law.EXACT),
        **dict.fromkeys(["quantile", "roc_auc"], Law.ROWS),
    }
    for each in ours:
        assert any(each.load() is type(suite.make_reducer(suite)) for suite in _suites()), each.name


def _suites():
    return [each for each in globals().values() if isinstance(each, type) and each.__name__.startswith("Test")]
