"""Every path stays below its root: objects of storages, run ids, names in records, files of checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill import api, inspection, settings
from batchmill.contracts.storage import Storage
from batchmill.engine.run_directory import manifest_bytes
from batchmill.engine.serialization import seal
from batchmill.errors import BatchmillError, ConfigError, CorruptRunError, ModelError, OutputError, StorageError
from batchmill_plugins.storage._local import LocalStorage
from batchmill_plugins.storage._memory import MemoryStorage
from batchmill_plugins.storage._object_store import ObjectStorage
from batchmill_plugins.trackers._ledger_path import ledger_path

HOSTILE_PATHS = [
    *("", "/", "//", ".", "..", "../x", "../../x", "a/../x", "a/../../x", "a/..", "./x", "a/./x", "a//x", "a/", "/x"),
    *("/etc/passwd", "//etc/passwd", "{root}/x", "{root}-other/x", "../{name}-other/x", "a/../../{name}-other/x"),
    *("x\0", "\0", "a\0/../../x", "a/\0", "..\0", "\ud800", "a/\udcff"),
]
# Strange, but plain names: they may be used, and lead nowhere.
STRANGE_NAMES = [
    *(
        "...",
        "....",
        "..x",
        "x..",
        "~",
        "~root",
        "a b",
        "*",
        "%2e%2e",
        "..%2f..",
        "..\\..\\x",
        "C:\\x",
        "\u2025",
        "\uff0e\uff0e",
    ),
    *("\u2215etc\u2215passwd", "e\u0301", "\u00e9", "\u202etxt", "$HOME", "`id`", "-rf", "|", ";", "\n", "x\r\ny"),
]


def local(tmp_path: Path) -> Storage:
    return LocalStorage(str(tmp_path / "below" / "run"))


def memory(tmp_path: Path) -> Storage:
    return MemoryStorage(f"memory://paths-{tmp_path.name}/below/run")


def objects(tmp_path: Path) -> Storage:
    (tmp_path / "below" / "run").mkdir(parents=True)
    return ObjectStorage(f"file://{tmp_path}/below/run")


@pytest.mark.parametrize("make", [local, memory, objects])
@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=repr)
def test_no_storage_follows_a_hostile_path(make: Callable[[Path], Storage], path: str, tmp_path: Path) -> None:
    storage = make(tmp_path)
    storage.put("good", b"1")
    path = path.format(root=tmp_path / "below" / "run", name="run")
    before = sorted(file for file in tmp_path.rglob("*") if file.is_file())
    for act in (
        lambda: storage.put(path, b"x"),
        lambda: storage.put_if_absent(path, b"x"),
        lambda: storage.get(path),
        lambda: storage.exists(path),
        lambda: storage.delete(path),
    ):
        with pytest.raises(StorageError, match=r"Path .* names joined by '/'"):
            act()
    if path not in ("", "a/"):  # the root, and a folder with its slash, can be listed
        with pytest.raises(StorageError):
            list(storage.list(path))
        with pytest.raises(StorageError):
            storage.list_folders(path)
    if make is local:  # the others lock nothing that has a path
        with pytest.raises(StorageError), storage.lock(path):
            pass
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == before


@pytest.mark.parametrize("make", [local, memory])
@pytest.mark.parametrize("name", STRANGE_NAMES, ids=repr)
def test_strange_names_are_names(make: Callable[[Path], Storage], name: str, tmp_path: Path) -> None:
    storage = make(tmp_path)
    storage.put(f"a/{name}", b"1")
    assert [info.path for info in storage.list()] == [f"a/{name}"] and storage.get(f"a/{name}") == b"1"
    outside = [
        file for file in tmp_path.rglob("*") if file.is_file() and (tmp_path / "below" / "run") not in file.parents
    ]
    assert outside == []


@pytest.mark.parametrize("where", ["outside", "below/run-other", "below"])
@pytest.mark.parametrize("link", ["a", "a/b"])
def test_no_link_leads_out(tmp_path: Path, where: str, link: str) -> None:
    """Neither elsewhere, nor to a neighbour whose name begins as the root's does, nor upwards."""
    storage = local(tmp_path)
    storage.put("good", b"1")
    target = tmp_path / where
    target.mkdir(exist_ok=True, parents=True)
    (target / "x").write_text("precious")
    place = tmp_path / "below" / "run" / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target, target_is_directory=True)
    for act in (
        lambda: storage.put(f"{link}/x", b"2"),
        lambda: storage.put(f"{link}/new/y", b"2"),
        lambda: storage.put_if_absent(f"{link}/y", b"2"),
        lambda: storage.get(f"{link}/x"),
        lambda: storage.delete(f"{link}/x"),
        lambda: list(storage.list(f"{link}/z")),
    ):
        with pytest.raises(StorageError, match=r"leads out of .* through a symbolic link"):
            act()
    assert [info.path for info in storage.list()] == ["good"]
    assert (target / "x").read_text() == "precious" and not (target / "y").exists()


RUN_IDS = [
    *(
        "",
        ".",
        "..",
        "...",
        "a/b",
        "../x",
        "/x",
        "x/..",
        "x\0",
        "x\n",
        "x ",
        " x",
        "é",
        "\u2025",
        "x" * 129,
        "~",
        "a:b",
    ),
    *("a\\b", "x\x1b[2K", "${batch_size}/x", "%2e%2e", "\u202ex", "*", "-\0"),
]


@pytest.mark.parametrize("run_id", RUN_IDS, ids=repr)
def test_no_run_is_called_so(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TensorDataset(torch.arange(4.0))
    with pytest.raises(ConfigError, match="run_id") as caught:
        batchmill.torch_batch_process(Silent, data, output=tmp_path / "runs", run_id=run_id)
    assert "\x1b" not in str(caught.value) and list(tmp_path.iterdir()) == []
    monkeypatch.setenv("BATCHMILL_RUN_ID", run_id.replace("\0", "/"))
    config = {"processor": {"name": "torch_module", "builder": "mlp"}, "dataset": {"name": "jsonl", "path": "x"}}
    with pytest.raises(ConfigError, match="run_id"):
        settings.from_mapping({**config, "run_id": run_id})


class Silent(batchmill.TorchBatchProcessor):
    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.context = context

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        return {"x": batch[0]}


# --- a run folder that somebody else has edited ---


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    data = TensorDataset(torch.arange(4.0))
    batchmill.torch_batch_process(Silent, data, batch_size=2, output=tmp_path / "runs", run_id="x", writer="jsonl")
    (tmp_path / "precious").write_text('{"_index": 0, "x": 666.0}\n')
    return tmp_path / "runs" / "x"


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a sealed document and seal it again."""
    document = json.loads(file.read_text())
    document.pop("sha256")
    change(document)
    sealed = seal(document)
    file.write_bytes(manifest_bytes(json.loads(sealed)) if file.name == "run.json" else sealed)


NAMES = ["../../precious", "/etc/hostname", "{tmp}/precious", "parts/../../../precious", "parts/x\0", "linked/precious"]


@pytest.mark.parametrize("name", [*NAMES, "", ".", "parts"], ids=repr)
def test_no_record_makes_us_read_elsewhere(
    finished: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no pauses between tries
    (finished / "linked").symlink_to(tmp_path)
    precious = (tmp_path / "precious").read_bytes()

    def point(record: dict[str, Any]) -> None:
        import hashlib

        record["parts"][0] |= {
            "name": name.format(tmp=tmp_path),
            "bytes": len(precious),
            "sha256": hashlib.sha256(precious).hexdigest(),
        }

    edit(finished / "commits" / "00000000.json", point)
    with pytest.raises(BatchmillError) as caught:
        batchmill.read_outputs(str(finished))
    assert isinstance(caught.value, (StorageError, CorruptRunError)) and len(str(caught.value)) < 800
    report = inspection.verify_run(str(finished))
    assert not report.ok and report.problems


MANIFESTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "run id": lambda manifest: manifest.update(run_id="../../x"),
    "another run id": lambda manifest: manifest.update(run_id=["x"]),
    "negative samples": lambda manifest: manifest.update(samples=-1),
    "too many samples": lambda manifest: manifest.update(samples=10**30),
    "samples in words": lambda manifest: manifest.update(samples="4"),
    "no batch": lambda manifest: manifest.update(batch_size=0),
    "true batches": lambda manifest: manifest.update(batch_size=True),
    "no chunk": lambda manifest: manifest.update(chunk_batches=-3),
    "no fingerprint": lambda manifest: manifest.update(fingerprint="abc"),
    "no config": lambda manifest: manifest.update(config=[]),
    "strange request": lambda manifest: manifest.update(config={"request": "x"}),
    "nothing": lambda manifest: manifest.clear(),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_an_edited_manifest_is_damage(finished: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit(finished / "run.json", change)
    for act in (inspection.describe_run, inspection.verify_run, api.resume, batchmill.read_outputs):
        with pytest.raises(CorruptRunError, match="is damaged: it is another document"):
            act(str(finished))


REQUESTS = [
    {"processor": "x"},
    {"processor": {"name": ["x"]}},
    {"processor": {"name": "x", "settings": 3}},
    {"processor": {"name": "x", "evil": 1}},
    {"callbacks": []},
    {"callbacks": {"x": None}},
    {"reducers": "x"},
    {"unheard_of": 1},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_an_edited_request_is_refused(finished: Path, request_: dict[str, Any]) -> None:
    whole = {"processor": {"name": "x"}, "dataset": {"name": "y"}, **request_}
    edit(finished / "run.json", lambda manifest: manifest.update(config={"request": whole}))
    with pytest.raises(ConfigError, match="stored request") as caught:
        api.resume(str(finished))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "data", [b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe", b"", b"null", b'"x"', b"{}", b"9" * 5000]
)
def test_what_is_no_manifest_is_damage(finished: Path, data: bytes) -> None:
    (finished / "run.json").write_bytes(data)
    with pytest.raises(CorruptRunError, match=r"run\.json is damaged"):
        inspection.describe_run(str(finished))
    (finished / "commits" / "00000000.json").write_bytes(data)


# --- what processors and models hand over ---


class Linking(Silent):
    def on_checkpoint_start(self) -> None:
        with self.context.upload_path() as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "link").symlink_to("/etc/hostname")


def test_no_uploaded_link_is_followed(tmp_path: Path) -> None:
    data = TensorDataset(torch.arange(4.0))
    with pytest.raises(OutputError, match=r"holds 'deep/link', which is a symbolic link"):
        batchmill.torch_batch_process(Linking, data, output=tmp_path / "runs", run_id="x", on_error="fail")
    assert not (tmp_path / "runs" / "x" / "files").exists()


def test_no_checkpoint_folder_leads_out_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("x")
    (tmp_path / "model" / "more").symlink_to("/etc", target_is_directory=True)
    with (
        batchmill.client.use(None) if False else _tracker(tmp_path),
        pytest.raises(ModelError, match="link to a directory"),
    ):
        batchmill.client.add_checkpoint(str(tmp_path / "model"))


def _tracker(tmp_path: Path) -> Any:
    from batchmill_plugins.trackers._sqlite import SqliteTracker

    return batchmill.client.use(SqliteTracker(str(tmp_path / "runs")))


@pytest.mark.parametrize("name", ["../x", "a/b", "x'; DROP TABLE model; --", "\x1b[2K", "é", "."])
def test_a_model_s_name_is_no_path(name: str, tmp_path: Path) -> None:
    with _tracker(tmp_path):
        try:
            batchmill.client.create_model(name)
        except ModelError as error:
            assert "\x1b" not in str(error)
        else:
            assert [model.name for model in batchmill.client.list_models()] == [name]
    assert {file.name for file in tmp_path.rglob("*")} <= {"runs", "batchmill.sqlite"}


@pytest.mark.parametrize(
    "url", ["s3://../../x", "s3://a/../../../../x", "gs://%2e%2e/..", "az://a\0b/x", "s3://" + "x" * 500]
)
def test_the_ledger_of_a_url_stays_in_the_data_folder(url: str, tmp_path: Path) -> None:
    path = ledger_path(url, "", {"XDG_DATA_HOME": str(tmp_path)})
    assert os.path.commonpath([os.path.realpath(path), os.path.realpath(tmp_path)]) == os.path.realpath(tmp_path)
    assert ".." not in path.parts and len(path.parent.name) < 120
