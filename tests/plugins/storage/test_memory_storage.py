import uuid

import pytest

from batchmill.errors import ConfigError
from batchmill.testing.storage_suite import StorageSuite
from batchmill_plugins.storage._memory import MemoryStorage

SESSION = uuid.uuid4().hex


class TestMemoryStorage(StorageSuite):
    def make_storage(self, tmp_path):
        return MemoryStorage(f"memory://{SESSION}{tmp_path.as_posix().replace('/', '-')}")


class TestMemoryStorageFolder(StorageSuite):
    def make_storage(self, tmp_path):
        return MemoryStorage(f"memory://{SESSION}{tmp_path.as_posix()}/runs")


def test_it_lives_in_one_process():
    assert MemoryStorage.shared_between_processes is False


def test_a_folder_in_the_url_is_a_folder_of_the_tree():
    name = uuid.uuid4().hex
    MemoryStorage(f"memory://{name}/runs/r1").put("run.json", b"1")
    assert [info.path for info in MemoryStorage(f"memory://{name}/").list("runs")] == ["runs/r1/run.json"]
    assert MemoryStorage(f"memory://{name}/runs").list_folders() == ["r1"]
    assert list(MemoryStorage(f"memory://{name}/run").list()) == []


def test_a_second_holder_does_not_get_the_lock():
    url = f"memory://{uuid.uuid4().hex}"
    with MemoryStorage(url).lock("lock") as first, MemoryStorage(url).lock("lock") as second:
        assert (first, second) == (True, False)
    with MemoryStorage(url).lock("lock") as third:
        assert third


@pytest.mark.parametrize("url", ["", "memory:", "memory://", "memory:///", "runs", "s3://bucket"])
def test_other_urls_are_refused(url):
    with pytest.raises(ConfigError, match="memory://NAME"):
        MemoryStorage(url)
