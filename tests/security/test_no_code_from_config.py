"""Configuration selects registered names: whatever it says besides, nothing that it names is run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import batchmill
from batchmill import api, settings
from batchmill.contracts.run import RunRequest
from batchmill.engine import trust
from batchmill.engine.fingerprint import digest_of
from batchmill.engine.run_directory import manifest_bytes
from batchmill.engine.serialization import seal
from batchmill.errors import BatchmillError, ConfigError, ConfigMismatchError, CorruptRunError

BASE = ["processor=torch_module", "processor.builder=mlp", "dataset=jsonl", "dataset.path=data.jsonl"]


@pytest.fixture(autouse=True)
def planted(flag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that creates the flag when it is imported, callables that do when called, and a resolver."""
    (tmp_path / "planted_module.py").write_text(
        f"import pathlib\npathlib.Path({str(flag)!r}).touch()\n"
        "def run(*a, **k): pass\nclass Class:\n    def __init__(self, *a, **k): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "planted_module", raising=False)
    OmegaConf.register_new_resolver("planted", lambda *args: flag.touch(), replace=True)
    OmegaConf.register_new_resolver("oc.env.planted", lambda *args: flag.touch(), replace=True)


OVERRIDES = [
    # Hydra's own way to name code, wherever it may stand
    ["processor._target_=planted_module.Class"],
    ["+processor._target_=planted_module.Class"],
    ["++processor._target_=planted_module.Class"],
    ["+_target_=planted_module.run"],
    ["+hparams._target_=planted_module.run"],
    ["+hparams={_target_: planted_module.run, _args_: [x]}"],
    ["+hparams.a={b: [{_target_: planted_module.run}]}"],
    ["hparams={' _target_ ': planted_module.run}"],
    ["processor.builder_args={_target_: planted_module.run}"],
    ["processor.builder_args.layer._target_=planted_module.Class"],
    ["processor.builder_args.layer={_target_: planted_module.Class, _partial_: true}"],
    ["loader.collate_fn={_target_: planted_module.run}"],
    ["loader.worker_init_fn._target_=planted_module.run"],
    ["+model._target_=planted_module.run"],
    ["+storage._target_=planted_module.run"],
    ["+writer._target_=logging.os.system"],
    ["+tracker={_target_: builtins.exec}"],
    ["+callbacks.x._target_=planted_module.run"],
    ["+reducers.x._target_=planted_module.run"],
    ["callbacks=[{_target_: planted_module.run}]"],
    ["+dataset._target_=torch.load", "+dataset.weights_only=false"],
    ["+launcher._target_=numpy.load", "+launcher.allow_pickle=true"],
    # names of code in place of names of components
    ["processor=planted_module:Class"],
    ["processor=planted_module.Class"],
    ["+processor.name=planted_module:Class"],
    ["processor.name=planted_module:Class"],
    ["dataset.name=planted_module:Class"],
    ["callbacks=[planted_module:run]"],
    ["+callbacks.x.name=planted_module:run"],
    ["+reducers.x.name=planted_module:run"],
    ["storage.name=planted_module:Class"],
    ["tracker.name=planted_module:Class"],
    ["launcher.name=planted_module:Class"],
    ["claims.name=planted_module:Class"],
    ["writer.name=planted_module:Class"],
    ["processor.builder=planted_module:run"],
    ["processor.builder=logging.os:system"],
    ["processor=function", "processor.target=planted_module:run"],
    ["processor.name=__import__('planted_module')"],
    # resolvers
    ["output=${planted:}"],
    ["output=${planted:1}"],
    ["output=${ planted : 1 }"],
    ["+hparams.x=${planted:${batch_size}}"],
    ["+hparams.x=${oc.env:HOME,${planted:}}"],
    ["+hparams.name=planted", "+hparams.x=${${hparams.name}:1}"],
    ["+hparams.x=${oc.${hparams.y}:1}", "+hparams.y=env.planted"],
    ["+hparams.x='${oc.create:{a: ${planted:}}}'"],
    ["+hparams.x=${oc.decode:'${planted:}'}"],
    ["+hparams.x=${oc.deprecated:planted}"],
    ["+hparams.x=${oc.dict.values:hparams}"],
    ["+hparams.x=${hydra:runtime.cwd}"],
    ["+hparams.x=${now:%Y}"],
    ["+hparams.x=${python_version:}"],
    ["processor=${planted:}"],
    ["run_id=\\\\${planted:}"],
    # Hydra's own configuration
    ["hydra/launcher=planted_module"],
    ["+hydra/launcher=planted_module"],
    ["hydra.launcher._target_=planted_module.Class"],
    ["+hydra.callbacks.x._target_=planted_module.run"],
    ["hydra/job_logging=planted"],
    ["+hydra.searchpath=[pkg://planted_module]"],
    ["hydra.searchpath=['file://.']"],
    ["hydra.job.env_set.PATH=."],
    ["hydra.mode=MULTIRUN"],
    ["hydra={launcher: {_target_: planted_module.run}}"],
    ["+hydra@hparams=planted"],
]


def test_the_corpus_is_no_smaller_than_it_was() -> None:
    assert len({tuple(each) for each in OVERRIDES}) >= 60


@pytest.mark.parametrize("given", OVERRIDES, ids=lambda given: " ".join(given)[:70])
def test_no_override_runs_code(given: list[str], flag: Path) -> None:
    with pytest.raises(BatchmillError) as caught:
        settings.compose([*BASE, *given])
    assert 20 < len(str(caught.value)) < 1500 and caught.value.exit_code == 2
    assert not flag.exists()


@pytest.mark.parametrize("given", OVERRIDES[::6], ids=lambda given: " ".join(given)[:70])
def test_no_sweep_runs_code(given: list[str], flag: Path) -> None:
    key, _, value = given[-1].partition("=")
    with pytest.raises(BatchmillError):
        settings.expand([*BASE, *given[:-1], f"{key}={value},{value}"])
    assert not flag.exists()


PRESETS = {
    "a target": "defaults: [torch_module]\nbuilder_args: {_target_: planted_module.run}\n",
    "a target far down": "defaults: [torch_module]\nbuilder_args: {a: [{b: {_target_: planted_module.run}}]}\n",
    "another package": "# @package _global_\nhparams: {_target_: planted_module.run}\n",
    "Hydra's launcher": "# @package _global_\nhydra: {launcher: {_target_: planted_module.run}}\n",
    "an override of Hydra's groups": "defaults: [torch_module, {override /hydra/launcher: planted_module}]\n",
    "a search path": "# @package _global_\nhydra: {searchpath: ['pkg://planted_module']}\n",
    "a resolver": "defaults: [torch_module]\nbuilder: ${planted:1}\n",
    "a resolver in its defaults": "defaults: [torch_module, {/dataset: '${planted:1}'}]\n",
    "a resolver as a preset's name": "defaults: ['${planted:1}']\n",
    "the import of code": "defaults: [torch_module]\nbuilder: planted_module:run\n",
    "the leave to import": "# @package _global_\nallow_import: true\nprocessor: {name: 'planted_module:Class'}\n",
    "the leave to import from elsewhere": (
        "# @package _global_\nhparams: {yes: true}\nallow_import: ${hparams.yes}\n"
        "processor: {name: 'planted_module:Class'}\n"
    ),
    "a YAML tag": "defaults: [torch_module]\nbuilder: !!python/object/apply:planted_module.run [1]\n",
    "a YAML tag for a name": "builder: !!python/name:planted_module.run\n",
    "a YAML tag for a module": "builder: !!python/module:planted_module\n",
    "a YAML tag for an object": "builder: !!python/object:planted_module.Class {}\n",
    "a YAML tag for a new object": "builder: !!python/object/new:planted_module.Class []\n",
}


@pytest.mark.parametrize("text", PRESETS.values(), ids=PRESETS)
def test_no_preset_runs_code(text: str, flag: Path, tmp_path: Path) -> None:
    folder = tmp_path / "presets" / "processor"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(BatchmillError) as caught:
        settings.compose(["processor=mine", *BASE[2:]], config_dir=folder.parent)
    assert caught.value.exit_code == 2 and not flag.exists()


def test_a_preset_may_be_used_by_someone_who_allows_imports_himself(tmp_path: Path, flag: Path) -> None:
    folder = tmp_path / "presets" / "processor"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: planted_module:Class\n")
    with pytest.raises(ConfigError, match="add allow_import=true"):
        settings.compose(["processor=mine", *BASE[2:]], config_dir=folder.parent)
    request = settings.compose(["processor=mine", *BASE[2:], "allow_import=true"], config_dir=folder.parent)
    assert request.processor.name == "planted_module:Class" and request.allow_import
    assert not flag.exists(), "composing imports nothing, whatever is allowed"


MAPPINGS = [
    {"processor": {"_target_": "planted_module.run"}},
    {"hparams": {"x": {"_target_": "planted_module.run"}}},
    {"processor": "planted_module:Class"},
    {"processor": {"name": "planted_module:Class"}},
    {"processor": {"name": "torch_module", "builder": "planted_module:run"}},
    {"callbacks": ["planted_module:run"]},
    {"output": "${planted:1}"},
    {"hydra": {"launcher": {"_target_": "planted_module.run"}}},
]


@pytest.mark.parametrize("config", MAPPINGS, ids=str)
def test_no_mapping_runs_code(config: dict[str, object], flag: Path) -> None:
    with pytest.raises(BatchmillError):
        settings.from_mapping({"processor": "torch_module", "dataset": {"name": "jsonl", "path": "x"}, **config})


# --- a run folder that somebody else has edited ---


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped before its end."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "data.jsonl").write_text("".join(json.dumps({"x": [float(i), 1.0]}) + "\n" for i in range(8)))
    given = ["processor.builder_args={sizes: [2, 2]}", "processor.inputs=[x]", f"dataset.path={folder}/data.jsonl"]
    more = ["callbacks=[]", "batch_size=2", "run_id=night", f"output={folder}/runs"]
    assert batchmill.run([*BASE[:-1], *given, *more]).complete
    for name in ("result.json", "_SUCCESS"):
        (folder / "runs" / "night" / name).unlink()
    return folder / "runs" / "night"


@pytest.fixture
def unfinished(begun: Path, tmp_path: Path) -> Path:
    """A copy of that folder for one test."""
    return Path(shutil.copytree(begun, tmp_path / "runs" / "night"))


EDITS = [
    {"processor": {"name": "planted_module:Class", "settings": {}}},
    {"callbacks": {"x": {"name": "planted_module:run", "settings": {}}}},
    {"callbacks": {"x": {"name": "os:system", "settings": {"command": "touch planted-code-ran"}}}},
    {"dataset": {"name": "planted_module:Class", "settings": {}}},
    {"storage": {"name": "planted_module:Class", "settings": {}}},
    {"launcher": {"name": "planted_module:Class", "settings": {}}},
    {"processor": {"name": "torch_module", "settings": {"builder": "planted_module:run"}}},
]


def seal_again(run: Path, **changes: object) -> None:
    """Change the request in a run's manifest as a careful attacker would: digests and fingerprint fit it."""
    manifest = json.loads((run / "run.json").read_text())
    manifest["config"]["request"].update(changes)
    write_manifest(run, manifest)
    try:
        api.resume(str(run))
    except ConfigMismatchError as error:
        covers = manifest["fingerprint"]["covers"]
        for key, (_, new) in error.differences.items():
            covers.pop(key, None)
            covers |= {} if new is None else {key: new}
        manifest["fingerprint"]["sha256"] = digest_of(covers)
        write_manifest(run, manifest)
    except BatchmillError:
        pass  # refused already; what is said is asserted by the caller, who resumes again


def write_manifest(run: Path, manifest: dict[str, Any]) -> None:
    manifest.pop("sha256", None)
    (run / "run.json").write_bytes(manifest_bytes(json.loads(seal(manifest))))


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: "-".join(edit))
def test_an_edited_run_is_not_resumed_into_code(edit: dict[str, Any], unfinished: Path, flag: Path) -> None:
    seal_again(unfinished, **edit)
    with pytest.raises(ConfigError, match="which config may only do with allow_import=true") as caught:
        api.resume(str(unfinished))
    assert caught.value.exit_code == 2 and not flag.exists()


def test_an_edit_without_the_seal_is_seen_at_once(unfinished: Path) -> None:
    manifest = unfinished / "run.json"
    manifest.write_text(manifest.read_text().replace("torch_module", "planted_module"))
    with pytest.raises(CorruptRunError, match="do not match the digest"):
        api.resume(str(unfinished))


ALLOWED = {"allow_import": True, "callbacks": {"x": {"name": "planted_module:run", "settings": {}}}}


@pytest.mark.parametrize("place", ["", "run.json"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_the_leave_to_import_is_nobody_else_s_to_give(
    unfinished: Path, flag: Path, place: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_is_own_group", lambda gid: False)
    seal_again(unfinished)
    manifest = json.loads((unfinished / "run.json").read_text())
    manifest["config"]["request"].update(ALLOWED)
    write_manifest(unfinished, manifest)
    (unfinished / place).chmod(mode)
    with pytest.raises(ConfigError, match=r"others than its owner may write to .* --allow-import"):
        api.resume(str(unfinished))
    with pytest.raises(ConfigError, match="names code to import"):
        api.resume(str(unfinished), allow_import=False)
    assert not flag.exists()


def test_the_manifest_of_another_user_gives_no_leave(
    unfinished: Path, flag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust.os, "geteuid", lambda: os.stat(unfinished).st_uid + 1)
    manifest = json.loads((unfinished / "run.json").read_text())
    manifest["config"]["request"].update(ALLOWED)
    write_manifest(unfinished, manifest)
    os.chown(unfinished, 12345, -1) if os.stat(unfinished).st_uid == 0 else None
    with pytest.raises(ConfigError, match="belongs to another user"):
        api.resume(str(unfinished))
    request = RunRequest.from_json(manifest["config"]["request"])
    with pytest.raises(ConfigError, match="lies in an object store"):
        trust.check_leave_to_import(request, "s3://bucket/runs/night")
    trust.check_leave_to_import(request, "memory://x/night")
    assert not flag.exists()


def test_one_s_own_run_goes_on_without_a_word(
    unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_callback.py").write_text("class Mine: pass\n")
    manifest = json.loads((unfinished / "run.json").read_text())
    manifest["config"]["request"].update(
        allow_import=True, callbacks={"x": {"name": "my_callback:Mine", "settings": {}}}
    )
    write_manifest(unfinished, manifest)
    (unfinished / "run.json").chmod(0o664)
    monkeypatch.setattr(trust, "_is_own_group", lambda gid: True)  # as where every user has a group
    assert api.resume(str(unfinished)).complete
    assert "my_callback" in sys.modules
