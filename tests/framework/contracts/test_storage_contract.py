import pytest

from batchmill import ObjectInfo, ObjectNotFoundError, Storage, StorageError


class Least(Storage):
    """Only what every storage must have."""

    url = "least://x"

    def __init__(self):
        self.objects, self.down = {}, False

    def put(self, path, data):
        self.objects[path] = data

    def put_if_absent(self, path, data):
        return self.objects.setdefault(path, data) is data

    def get(self, path):
        if self.down:
            raise StorageError("down")
        if path not in self.objects:
            raise ObjectNotFoundError(path)
        return self.objects[path]

    def list(self, prefix=""):
        return iter(ObjectInfo(path, len(data)) for path, data in sorted(self.objects.items()))

    def list_folders(self, prefix=""):
        return []

    def delete(self, path):
        self.objects.pop(path, None)


def test_existence_is_asked_of_get_where_a_storage_knows_no_better():
    storage = Least()
    storage.put("a", b"")
    assert storage.exists("a") and not storage.exists("b")
    storage.down = True
    with pytest.raises(StorageError, match="down"):
        storage.exists("a")


def test_a_storage_that_cannot_lock_lets_everyone_in():
    storage = Least()
    with storage.lock("x") as first, storage.lock("x") as second:
        assert first and second


def test_names_are_durable_where_a_storage_says_nothing_else():
    assert Least().sync("commits") is None
    assert (Storage.exclusive_create, Storage.shared_between_processes) == (True, True)
