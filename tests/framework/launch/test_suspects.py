from batchmill.launch.restarts import Restarts
from batchmill.launch.suspects import Suspects


def test_a_chunk_is_a_suspect_from_the_second_death_on() -> None:
    suspects = Suspects()
    assert suspects.died(4) is False and suspects.chunks == []
    assert suspects.died(7) is False
    assert suspects.died(4) is True and suspects.chunks == [4]
    assert suspects.died(4) is False, "told once"
    assert suspects.chunks == [4]


def test_a_death_between_chunks_is_nobodys_fault() -> None:
    suspects = Suspects()
    assert [suspects.died(None) for _ in range(3)] == [False] * 3
    assert suspects.chunks == []


def test_deaths_whose_cause_is_known_do_not_use_up_restarts() -> None:
    restarts = Restarts(most=2, first_backoff=1.0)
    for chunk in range(5):
        assert restarts.died(0, float(chunk)) == 1.0
        assert restarts.died(0, chunk + 0.5) == 2.0
        restarts.forgive(2)
    restarts.died(0, 6.0), restarts.died(0, 6.1)
    assert restarts.died(0, 6.2) is None
