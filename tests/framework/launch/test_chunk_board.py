"""The supervisor's bookkeeping of chunks and restarts, without processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.launch.chunk_board import Answers, ChunkBoard
from batchmill.launch.restarts import Restarts


def test_chunks_are_handed_out_in_order() -> None:
    board = ChunkBoard(4, committed=[1])
    assert [board.ask(rank, wait=False) for rank in (0, 1, 0, 1)] == [{0: 0}, {1: 2}, {0: 3}, {1: None}]


def test_who_waits_hears_of_the_end() -> None:
    board = ChunkBoard(1, committed=[])
    assert board.ask(0, wait=True) == {0: 0}
    assert board.ask(1, wait=True) == {}
    assert board.ask(2, wait=True) == {}
    assert board.commit(0) == {1: None, 2: None}
    assert board.complete
    assert board.ask(0, wait=True) == {0: None}


def test_a_run_without_chunks_is_complete() -> None:
    board = ChunkBoard(0, committed=[])
    assert board.complete
    assert board.ask(0, wait=True) == {0: None}


def test_the_chunks_of_a_worker_that_left_come_first() -> None:
    board = ChunkBoard(6, committed=[])
    assert [board.ask(0, wait=False)[0], board.ask(1, wait=False)[1], board.ask(0, wait=False)[0]] == [0, 1, 2]
    assert board.leave(0) == {}
    assert [board.ask(1, wait=False)[1] for _ in range(3)] == [0, 2, 3]


def test_a_chunk_that_comes_back_goes_to_whoever_waits() -> None:
    board = ChunkBoard(1, committed=[])
    board.ask(0, wait=False)
    assert board.ask(1, wait=True) == {}
    assert board.leave(0) == {1: 0}


def test_a_chunk_is_lent_to_a_waiting_worker_once() -> None:
    board = ChunkBoard(2, committed=[])
    board.ask(0, wait=False)
    board.ask(0, wait=False)
    assert board.lend() is None, "nobody waits"
    board.ask(1, wait=True)
    assert board.lend() == {1: 0}
    board.ask(2, wait=True)
    assert board.lend() == {2: 1}, "the chunk that was handed out longest ago comes first"
    assert board.leave(0) == {}, "both have copies"
    assert board.commit(0) == {}
    assert board.leave(2) == {}
    assert board.ask(1, wait=True) == {1: 1}


def test_a_joined_launcher_goes_in_another_order() -> None:
    board = ChunkBoard(200, committed=range(100), joined=True)
    chunks = [board.ask(0, wait=False)[0] for _ in range(100)]
    assert sorted(chunks) == list(range(100, 200))
    assert chunks != sorted(chunks)
    assert board.ask(0, wait=False) == {0: None}


@given(st.integers(0, 8), st.integers(1, 4), st.data())
def test_whatever_happens_every_chunk_is_worked_on_until_it_is_committed(
    chunks: int, workers: int, data: st.DataObject
) -> None:
    board = ChunkBoard(chunks, data.draw(st.sets(st.integers(0, max(chunks - 1, 0)), max_size=chunks)))
    done = {chunk for chunk in range(chunks) if chunk in board._committed}
    held: dict[int, set[int]] = {rank: set() for rank in range(workers)}
    waiting: set[int] = set()

    def heed(answers: Answers, lent: bool = False) -> None:
        for rank, chunk in answers.items():
            waiting.discard(rank)
            if chunk is None:
                continue
            assert chunk not in done
            assert lent == any(chunk in others for others in held.values())
            held[rank].add(chunk)

    for _ in range(data.draw(st.integers(0, 40))):
        rank = data.draw(st.integers(0, workers - 1))
        action = data.draw(st.sampled_from(["ask", "wait", "commit", "leave", "lend"]))
        if action in ("ask", "wait") and rank not in waiting:
            if action == "wait":
                waiting.add(rank)
            answers = board.ask(rank, wait=action == "wait")
            assert answers.keys() <= waiting | {rank}
            if action == "wait" and answers.get(rank, -1) is None:
                assert done == set(range(chunks)), "a waiting worker was sent home too early"
            heed(answers)
        elif action == "commit" and held[rank]:
            chunk = min(held[rank])
            done.add(chunk)
            for others in held.values():
                others.discard(chunk)
            answers = board.commit(chunk)
            assert answers.keys() <= waiting
            heed(answers)
        elif action == "leave":
            waiting.discard(rank)
            held[rank] = set()
            answers = board.leave(rank)
            assert answers.keys() <= waiting
            heed(answers)
        elif action == "lend" and (loan := board.lend()) is not None:
            assert loan.keys() <= waiting
            heed(loan, lent=True)
        assert board.complete == (done == set(range(chunks)))
        assert not (waiting and board.complete), "a worker waits although all is committed"

    for rank in range(workers):  # everyone dies; a new worker finds exactly what is left
        waiting.discard(rank)
        held[rank] = set()
        heed(board.leave(rank))
    left = []
    while (chunk := board.ask(99, wait=False)[99]) is not None:
        left.append(chunk)
    assert sorted(left) == [chunk for chunk in range(chunks) if chunk not in done]


def test_restarts_come_later_each_time_until_there_are_too_many() -> None:
    restarts = Restarts(most=3, window=100.0, first_backoff=1.0, longest_backoff=3.0)
    assert [restarts.died(0, now=0.0), restarts.died(1, now=0.0), restarts.died(2, now=0.0)] == [1.0, 2.0, 3.0]
    assert restarts.died(3, now=1.0) is None
    assert restarts.due(now=0.5) == []
    assert restarts.due(now=2.5) == [0, 1]
    assert restarts.pending
    assert restarts.due(now=9.0) == [2]
    assert not restarts.pending


def test_deaths_of_long_ago_do_not_count() -> None:
    restarts = Restarts(most=1, window=10.0, first_backoff=1.0)
    assert restarts.died(0, now=0.0) == 1.0
    assert restarts.died(0, now=11.0) == 1.0
    assert restarts.died(0, now=12.0) is None


def test_restarts_can_be_cancelled() -> None:
    restarts = Restarts()
    restarts.died(0, now=0.0)
    restarts.cancel()
    assert not restarts.pending and restarts.due(now=1e9) == []


@pytest.mark.parametrize("committed", [[], [0, 1, 2]])
def test_a_board_knows_whether_the_run_is_complete(committed: list[int]) -> None:
    assert ChunkBoard(3, committed).complete == bool(committed)
