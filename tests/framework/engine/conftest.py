import itertools

import pytest

from batchmill import StorageError
from batchmill.engine import retries
from batchmill_plugins.storage._memory import MemoryStorage

_numbers = itertools.count()


class FlakyStorage(MemoryStorage):
    """Memory storage whose calls fail on demand, before or after they took effect."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.calls: list[tuple[str, str]] = []
        self._plan: list[tuple[str, str, Exception]] = []

    def fail(self, method: str, when: str, times: int = 1, error: Exception | None = None) -> None:
        """Let the next ``times`` calls of a method raise ``before`` or ``after`` they are applied."""
        assert when in ("before", "after")
        self._plan += [(method, when, error or StorageError("connection reset"))] * times

    @property
    def failures_left(self) -> int:
        return len(self._plan)

    def _call(self, method, path, operation):
        self.calls.append((method, path))
        planned = next((item for item in self._plan if item[0] == method), None)
        if planned is None:
            return operation()
        self._plan.remove(planned)
        if planned[1] == "after":
            operation()
        raise planned[2]

    def put(self, path, data):
        self._call("put", path, lambda: super(FlakyStorage, self).put(path, data))

    def put_if_absent(self, path, data):
        copy = bytes(bytearray(data))  # as if it had come over a network, not the very same object again
        return self._call("put_if_absent", path, lambda: super(FlakyStorage, self).put_if_absent(path, copy))

    def get(self, path):
        return self._call("get", path, lambda: super(FlakyStorage, self).get(path))

    def delete(self, path):
        self._call("delete", path, lambda: super(FlakyStorage, self).delete(path))

    def list(self, prefix=""):
        return iter(self._call("list", prefix, lambda: [*super(FlakyStorage, self).list(prefix)]))

    def paths(self, prefix=""):
        return [info.path for info in MemoryStorage.list(self, prefix)]


@pytest.fixture(scope="session")
def new_storage():
    """Make empty storages in memory that can be told to fail."""
    return lambda: FlakyStorage(f"memory://engine-{next(_numbers)}/run")


@pytest.fixture
def storage(new_storage):
    """An empty storage in memory that can be told to fail."""
    return new_storage()


@pytest.fixture
def quick_retries(monkeypatch):
    """Retries without waiting."""
    monkeypatch.setattr(retries, "_FIRST_DELAY", 0.0)
