import logging

import pytest

from batchmill import ObjectNotFoundError, StorageError, StorageFullError
from batchmill.engine import retries
from batchmill.engine.retries import with_retries


def test_retries_wait_longer_and_longer_and_then_give_up():
    waits, calls = [], []

    def never():
        calls.append(1)
        raise StorageError("down")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchmill.engine.retries._FIRST_DELAY", 0.1)
        patch.setattr("batchmill.engine.retries.random.uniform", lambda low, high: high)
        with pytest.raises(StorageError, match="down"):
            with_retries(never, tries=5, sleep=waits.append)
    assert len(calls) == 5
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_only_storage_errors_are_retried():
    for error in (ObjectNotFoundError("gone"), ValueError("a bug")):
        calls = []

        def operation(calls=calls, error=error):
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            with_retries(operation)
        assert len(calls) == 1


class FullUntil:
    """Storage that has room again after so many calls."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self):
        self.left -= 1
        if self.left >= 0:
            raise StorageFullError("no room on /runs.")
        return "written"


def test_a_full_disk_is_waited_for(caplog):
    waits = []
    with caplog.at_level(logging.WARNING, logger="batchmill"):
        assert with_retries(FullUntil(20), tries=2, sleep=waits.append) == "written"
    assert waits == [1.0] * 20  # longer than two tries, and without back-off
    assert [record.getMessage() for record in caplog.records] == ["no room on /runs. Waiting up to 30 s for space."]


def test_a_disk_that_stays_full_is_given_up(monkeypatch):
    monkeypatch.setattr(retries, "FULL_PATIENCE", 5.0)
    waits = []
    with pytest.raises(StorageFullError, match="no room") as caught:
        with_retries(FullUntil(100), sleep=waits.append)
    assert sum(waits) == 5.0
    assert caught.value.exit_code == 74
