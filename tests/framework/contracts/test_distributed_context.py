import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill import DistributedContext


def test_by_default_there_is_one_worker():
    context = DistributedContext()
    assert (context.get_rank(), context.get_size(), context.get_local_rank()) == (0, 1, 0)


@given(st.integers(1, 50), st.integers(-5, 60))
def test_a_rank_is_one_of_its_workers(size, rank):
    if 0 <= rank < size:
        assert DistributedContext(rank, size, rank, size).rank == rank
    else:
        with pytest.raises(ValueError, match=rf"^rank={rank} is not one of {size} workers; expected 0\.\.{size - 1}"):
            DistributedContext(rank, size)


@pytest.mark.parametrize(
    "wrong", [{"local_rank": 2, "local_size": 2}, {"cross_rank": 1, "cross_size": 1}, {"local_rank": -1}]
)
def test_the_other_numbers_are_checked_too(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        DistributedContext(**wrong)
