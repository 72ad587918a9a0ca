"""The suite that every reducer passes: what metrics rest on when workers come, go and crash.

Make a test class of it beside your reducer. It needs hypothesis, which makes up the batches::

    from hypothesis import strategies as st
    from batchmill.testing.reducer_suite import ReducerSuite

    class TestMyReducer(ReducerSuite):
        def make_reducer(self):
            return MyReducer()

        def batches(self):
            return st.lists(st.floats(-1e6, 1e6), max_size=5)

        def feed(self, reducer, batch):
            reducer.update(batch)
"""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchmill.contracts.reducer import Law, MetricReducer, RowReducer
from batchmill.contracts.writer import INDEX_COLUMN
from batchmill.engine.plain_metrics import plain_metric
from batchmill.engine.serialization import canonical_json, decode_value, encode_value

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_MOST_BATCHES, _MOST_WORKERS = 5, 3
# Many reducers are tested beside each other; a hypothesis profile with more examples makes it thorough.
_EXAMPLES = max(20, settings().max_examples // 5)


def _property(test: Callable[..., None]) -> Callable[..., None]:
    # A subclass for each reducer runs the same test, which hypothesis would take for a mistake.
    quiet = [HealthCheck.differing_executors, HealthCheck.too_slow]
    return settings(deadline=None, max_examples=_EXAMPLES, suppress_health_check=quiet)(given(data=st.data())(test))


class ReducerSuite(ABC):
    """Tests of the words in ``batchmill.MetricReducer`` and of the law that a reducer declares.

    A subclass gives ``make_reducer`` and ``batches``, and ``feed`` or ``table``. Results are compared as bytes.
    """

    @abstractmethod
    def make_reducer(self) -> MetricReducer:
        """Return a new reducer, always with the same settings."""

    @abstractmethod
    def batches(self) -> st.SearchStrategy[Any]:
        """Return the strategy of one batch; let it hold what is awkward: ties, both zeros, far-off magnitudes."""

    def feed(self, reducer: Any, batch: Any) -> None:
        """Give a reducer one batch, as the processor or the engine does."""
        reducer.update(batch)

    def table(self, batch: Any) -> pa.Table:
        """Return one batch as committed rows, without ``_index``; for a ``RowReducer``."""
        import pyarrow as pa

        return pa.table(dict(batch))

    @_property
    def test_reset_forgets_everything(self, data: st.DataObject) -> None:
        """After it, a reducer is as good as new."""
        self._skip_without_partials()
        reducer, seen, then = self._new(), self._draw(data), self._draw(data)
        self._feed_all(reducer, seen)
        reducer.reset()
        self._feed_all(reducer, then)
        assert _stored(reducer.per_slot_reduce()) == self._partials([then])[0], "batches from before show"

    @_property
    def test_the_same_batches_give_the_same_partial(self, data: st.DataObject) -> None:
        """In another process, or on a second attempt."""
        self._skip_without_partials()
        chunks = _cut(data, self._draw(data))
        assert self._partials(chunks) == self._partials(chunks)

    @_property
    def test_partials_survive_storage(self, data: st.DataObject) -> None:
        """Bit for bit: read back, they are stored as the same bytes and give the same result."""
        self._skip_without_partials()
        chunks = _cut(data, self._draw(data))
        live = []
        for chunk in chunks:
            each = self._new()
            self._feed_all(each, chunk)
            live.append(each.per_slot_reduce())
        stored = [_stored(partial) for partial in live]
        assert [_stored(_loaded(partial)) for partial in stored] == stored
        assert self._folded(stored) == _result(self._new().cross_slot_reduce(live))

    @_property
    def test_the_result_is_json_and_finite(self, data: st.DataObject) -> None:
        """Also of a run without chunks, of chunks without samples, and for a second worker that folds."""
        reducer = self._new()
        without_samples: list[list[list[Any]]] = [[], [[]], [[], []]]
        for chunks in (*without_samples, _cut(data, self._draw(data))):
            if isinstance(reducer, RowReducer):
                assert self._of_rows(chunks) == self._of_rows(chunks)
            else:
                stored = self._partials(chunks)
                assert self._folded(stored) == self._folded(stored, folder=reducer)

    @_property
    def test_who_processed_what_does_not_show(self, data: st.DataObject) -> None:
        """Chunks are dealt out to workers that process them in any order; partials are folded in chunk order."""
        self._skip_without_partials()
        chunks = _cut(data, self._draw(data))
        dealt = [data.draw(st.integers(0, _MOST_WORKERS - 1)) for _ in chunks]
        order = data.draw(st.permutations(range(len(chunks))))
        workers = [self._new() for _ in range(_MOST_WORKERS)]
        partials = [b""] * len(chunks)
        for chunk in order:
            worker = workers[dealt[chunk]]
            self._feed_all(worker, chunks[chunk])
            partials[chunk] = _stored(worker.per_slot_reduce())
            worker.reset()
        assert partials == self._partials(chunks)
        assert self._folded(partials, folder=workers[-1]) == self._folded(self._partials(chunks))

    @_property
    def test_the_declared_law_holds(self, data: st.DataObject) -> None:
        """Of laws exact and rows: any grouping gives equal bits; of exact also any order of partials."""
        batches, reducer = self._draw(data), self._new()
        chunks, law = _cut(data, batches), reducer.law
        if law == Law.ROWS:
            assert _stored(reducer.per_slot_reduce()) == b"null", "law rows: there is a partial"
            assert self._of_rows(chunks) == self._of_rows([batches]), "law rows: the grouping shows"
        elif law == Law.EXACT:
            whole = self._folded(self._partials([batches]))
            partials = self._partials(chunks)
            assert self._folded(partials) == whole, "law exact: the grouping into chunks shows"
            shuffled = data.draw(st.permutations(partials))
            assert self._folded(shuffled) == whole, "law exact: the order of partials shows"
        else:
            assert law == Law.ORDERED  # which is the test above
            partials = self._partials(chunks)
            assert self._folded(partials) == self._folded(partials)

    def test_the_law_is_one_of_three(self) -> None:
        """And "rows" is for subclasses of ``RowReducer``."""
        reducer = self.make_reducer()
        assert reducer.law in tuple(Law), f"law is {reducer.law!r}; expected a member of batchmill.Law"
        assert (reducer.law == Law.ROWS) == isinstance(reducer, RowReducer)

    def _new(self) -> MetricReducer:
        reducer = self.make_reducer()
        reducer.reset()
        return reducer

    def _draw(self, data: st.DataObject) -> list[Any]:
        return data.draw(st.lists(self.batches(), max_size=_MOST_BATCHES))

    def _skip_without_partials(self) -> None:
        if isinstance(self.make_reducer(), RowReducer):
            pytest.skip("a reducer of rows has no partials")

    def _feed_all(self, reducer: MetricReducer, batches: Sequence[Any]) -> None:
        for batch in batches:
            self.feed(reducer, batch)

    def _partials(self, chunks: Sequence[Sequence[Any]]) -> list[bytes]:
        """Return the stored partials of chunks, each of a reducer of its own."""
        partials = []
        for chunk in chunks:
            reducer = self._new()
            self._feed_all(reducer, chunk)
            partials.append(_stored(reducer.per_slot_reduce()))
        return partials

    def _folded(self, partials: Sequence[bytes], folder: MetricReducer | None = None) -> bytes:
        reducer = self._new() if folder is None else folder
        return _result(reducer.cross_slot_reduce([_loaded(partial) for partial in partials]))

    def _of_rows(self, chunks: Sequence[Sequence[Any]]) -> bytes:
        reducer = self._new()
        assert isinstance(reducer, RowReducer)
        return _result(reducer.reduce_rows(self._tables(chunks, reducer.columns)))

    def _tables(self, chunks: Sequence[Sequence[Any]], columns: Sequence[str]) -> Iterator[pa.Table]:
        import pyarrow as pa

        start = 0
        for chunk in chunks:
            tables = [table for batch in chunk if (table := self.table(batch)).num_rows]
            if tables:  # the engine passes over chunks without rows
                rows = pa.concat_tables(tables, promote_options="permissive").select(list(dict.fromkeys(columns)))
                index = pa.array(range(start, start + rows.num_rows), pa.int64())
                start += rows.num_rows
                yield rows.add_column(0, INDEX_COLUMN, index)


def _stored(partial: Any) -> bytes:
    """Return a partial as its commit record holds it."""
    return canonical_json(encode_value(partial))


def _loaded(stored: bytes) -> Any:
    return decode_value(json.loads(stored))


def _result(value: Any) -> bytes:
    """Return a result as ``result.json`` holds it; fails if it is not JSON or not finite."""
    return canonical_json(plain_metric("the result", value))


def _cut(data: st.DataObject, batches: Sequence[T]) -> list[list[T]]:
    """Return the batches in chunks, some of them empty."""
    cuts = data.draw(st.lists(st.integers(0, len(batches)), max_size=4))
    edges = [0, *sorted(cuts), len(batches)]
    return [list(batches[start:stop]) for start, stop in itertools.pairwise(edges)]
