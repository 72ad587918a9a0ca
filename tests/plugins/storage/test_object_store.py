import os
import uuid

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore

from batchmill.errors import ConfigError, ObjectNotFoundError, StorageError
from batchmill.testing.storage_suite import StorageSuite
from batchmill_plugins.storage import _object_store
from batchmill_plugins.storage._object_store import ObjectStorage

stores = {}


class TestObjectStorageOnMemoryStore(StorageSuite):
    def make_storage(self, tmp_path):
        store = stores.setdefault(tmp_path, MemoryStore())
        return ObjectStorage(f"s3://bucket{tmp_path.as_posix()}", store=store)


class TestObjectStorageOnLocalStore(StorageSuite):
    def make_storage(self, tmp_path):
        return ObjectStorage((tmp_path / "objects").as_uri())


class Failing:
    """Stands before obstore's functions; the named one fails as a server or network would."""

    def __init__(self, monkeypatch, function, error):
        self.calls = 0

        def fail(*_args, **_kwargs):
            self.calls += 1
            raise error

        monkeypatch.setattr(_object_store.obstore, function, fail)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        ("put", lambda storage: storage.put("a", b"1")),
        ("put", lambda storage: storage.put_if_absent("a", b"1")),
        ("get", lambda storage: storage.get("a")),
        ("head", lambda storage: storage.exists("a")),
        ("delete", lambda storage: storage.delete("a")),
        ("list", lambda storage: list(storage.list())),
        ("list_with_delimiter", lambda storage: storage.list_folders()),
    ],
)
@pytest.mark.parametrize(
    "error",
    [obstore.exceptions.GenericError("timed out"), PermissionError("denied"), ConnectionError("reset")],
)
def test_every_failure_is_a_storage_error_with_path_and_cause(monkeypatch, function, operation, error):
    storage = ObjectStorage("s3://bucket/runs", store=MemoryStore())
    Failing(monkeypatch, function, error)
    with pytest.raises(StorageError, match=r"s3://bucket/runs.*(timed out|denied|reset)") as caught:
        operation(storage)
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert caught.value.__cause__ is error


def test_signatures_and_internal_state_stay_out_of_messages(monkeypatch):
    storage = ObjectStorage("s3://bucket/runs", store=MemoryStore())
    text = "Error performing GET https://bucket/x?X-Amz-Signature=canary in 3s\n\nDebug source:\nsecret canary"
    Failing(monkeypatch, "get", obstore.exceptions.GenericError(text))
    with pytest.raises(StorageError, match="Error performing GET") as caught:
        storage.get("x")
    assert "canary" not in str(caught.value)


class OverwritingServer:
    """Ignores the condition of a put, as some servers do."""

    def __init__(self, monkeypatch):
        put = obstore.put

        def overwrite(store, path, data, **_kwargs):
            return put(store, path, data)

        monkeypatch.setattr(_object_store.obstore, "put", overwrite)
        monkeypatch.setattr(_object_store, "MemoryStore", LocalStore)  # so that the store is not trusted


def test_a_server_that_ignores_the_condition_is_found_out(monkeypatch):
    OverwritingServer(monkeypatch)
    storage = ObjectStorage("s3://bucket/runs", store=MemoryStore())
    with pytest.raises(StorageError, match="exactly once"):
        storage.put_if_absent("run.json", b"1")


def test_a_server_that_keeps_the_condition_is_asked_once(monkeypatch):
    calls, put = [], obstore.put
    monkeypatch.setattr(_object_store, "MemoryStore", LocalStore)

    def count(store, path, data, **kwargs):
        calls.append((path, bytes(data), kwargs["mode"]))
        return put(store, path, data, **kwargs)

    monkeypatch.setattr(_object_store.obstore, "put", count)
    storage = ObjectStorage("s3://bucket/runs", store=MemoryStore())
    assert storage.put_if_absent("a", b"1")
    assert storage.put_if_absent("b", b"2")
    assert not storage.put_if_absent("b", b"3")
    assert calls == [("a", b"1", "create")] * 2 + [("b", b"2", "create"), ("b", b"3", "create")]
    assert storage.get("b") == b"2"


@pytest.mark.parametrize("url", ["", "runs", "/runs", "s3://", "s3:bucket"])
def test_urls_without_a_bucket_are_refused(url):
    with pytest.raises(ConfigError, match="s3://bucket/runs"):
        ObjectStorage(url)


@pytest.mark.parametrize("url", ["s3://key:canary@bucket/runs", "az://container/runs?sig=canary"])
def test_urls_with_secrets_are_refused_without_repeating_them(url):
    with pytest.raises(ConfigError, match="environment") as caught:
        ObjectStorage(url)
    assert "canary" not in str(caught.value)


def test_settings_come_from_the_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(StorageError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        ObjectStorage("az://container/runs")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", f"account{uuid.uuid4().hex[:8]}")
    assert ObjectStorage("az://container/runs/").url == "az://container/runs"
