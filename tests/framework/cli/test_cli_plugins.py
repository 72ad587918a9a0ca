import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import batchmill
from batchmill.components import ComponentRegistry, Kind
from batchmill.errors import StorageError
from batchmill.plugin_manager import Catalog, PluginInfo, get_catalog

Invoke = Callable[..., Result]


@dataclass
class ShoutSettings:
    """Says it loudly."""

    path: str
    times: int = 2
    words: list[str] = field(default_factory=lambda: ["a"])


class Acme:
    @batchmill.hookimpl
    def register_components(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.PROCESSOR, "shout", "nowhere:Shout", schema=ShoutSettings)
        registry.add(Kind.STORAGE, "cloud", "nowhere:Cloud", schema=ShoutSettings, aliases=("s9",))
        registry.add(Kind.BUILDER, "net", "nowhere:net", summary="A net.")


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    made = Catalog()
    made.register(Acme(), "acme", "acme==1.5")
    made.plugins["broken"] = PluginInfo("broken", "b.plugin", "b==2", "failed", "ImportError: no\n module [x]")
    monkeypatch.setattr("batchmill.plugin_manager.get_catalog", lambda: made)
    return made


class TestPlugins:
    def test_lists_components_with_settings_and_provenance(self, invoke: Invoke, catalog: Catalog) -> None:
        shown = invoke("plugins").stdout
        line = next(line for line in shown.splitlines() if "shout" in line)
        for part in ("processor", "path: str!", "times: int=2", 'words: list of str=["a"]', "acme==1.5", "loudly"):
            assert part in line
        assert "A net." in shown

    def test_lists_what_is_not_loaded(self, invoke: Invoke, catalog: Catalog) -> None:
        tail = invoke("plugins").stdout.partition("Not loaded")[2]
        assert "broken" in tail
        assert "ImportError: no module [x]" in tail

    def test_json(self, invoke: Invoke, catalog: Catalog) -> None:
        shown = json.loads(invoke("plugins", "--json").stdout)
        assert [component["name"] for component in shown["components"]] == ["shout", "cloud", "net"]
        assert shown["components"][0]["settings"][:2] == [
            {"name": "path", "type": "str", "default": None, "required": True},
            {"name": "times", "type": "int", "default": 2, "required": False},
        ]
        assert shown["components"][1]["aliases"] == ["s9"]
        assert {plugin["name"]: plugin["status"] for plugin in shown["plugins"]} == {
            "acme": "loaded",
            "broken": "failed",
        }

    @pytest.mark.parametrize("kind", ["reducers", "reducer"])
    def test_of_one_kind(self, invoke: Invoke, kind: str) -> None:
        shown = json.loads(invoke("plugins", kind, "--json").stdout)
        assert {component["kind"] for component in shown["components"]} == {"reducers"}
        assert "mean" in [component["name"] for component in shown["components"]]

    def test_an_unknown_kind(self, invoke: Invoke) -> None:
        done = invoke("plugins", "reducrs")
        assert done.exit_code == 2
        assert "There is no kind 'reducrs'. Did you mean 'reducers'?" in done.stderr

    def test_every_installed_component_is_listed_and_described(self, invoke: Invoke) -> None:
        shown = json.loads(invoke("plugins", "--json").stdout)
        assert len(shown["components"]) == len(list(get_catalog().registry)) > 20
        assert [each["name"] for each in shown["components"] if not each["summary"]] == []


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the import of torch; one test does it for real."""
    monkeypatch.setattr("batchmill.cli.doctor.devices", lambda: ["cpu"])


class TestDoctor:
    def test_says_what_is_here(self, invoke: Invoke, folder: Path) -> None:
        report = json.loads(invoke("doctor", "--json", env={"BATCHMILL_FULL_ERROR": "0"}).stdout)
        assert report["batchmill"] == batchmill.__version__
        assert report["packages"]["hydra-core"].startswith("1.3.")
        assert report["devices"][0].startswith("cpu: ")
        assert report["environment"]["BATCHMILL_FULL_ERROR"] == "0"
        assert report["output"] == {
            "path": "runs",
            "ok": True,
            "tried in": str(folder),
            "exclusive create": True,
            "hard links": True,
            "fsync of files": True,
            "fsync of folders": True,
        }
        assert list(folder.iterdir()) == []

    def test_shows_plugins_that_failed(self, invoke: Invoke, no_devices: None, catalog: Catalog) -> None:
        done = invoke("doctor")
        assert done.exit_code == 0
        assert "Plugins that are not loaded" in done.stdout
        assert "ImportError: no" in done.stdout

    def test_no_credentials_are_shown(self, invoke: Invoke, no_devices: None) -> None:
        done = invoke("doctor", env={"AWS_SECRET_ACCESS_KEY": "hush-hush", "RANK": "0", "WORLD_SIZE": "1"})
        assert "hush-hush" not in done.stdout
        assert "WORLD_SIZE" in done.stdout

    def test_a_place_that_cannot_hold_runs(
        self, invoke: Invoke, no_devices: None, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: Any, **kwargs: Any) -> int:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("batchmill.cli.doctor.os.open", refuse)
        done = invoke("doctor")
        assert done.exit_code == 74
        assert "CANNOT hold runs" in done.stdout
        assert "Read-only file system" in done.stdout

    def test_a_store_is_tried_and_left_clean(self, invoke: Invoke, no_devices: None) -> None:
        report = json.loads(invoke("doctor", "--output", "memory://doctor-test", "--json").stdout)
        assert report["output"] == {"path": "memory://doctor-test", "ok": True, "exclusive create": True}
        assert json.loads(invoke("ls", "--output", "memory://doctor-test", "--json").stdout) == []

    def test_a_store_that_lets_two_win(self, invoke: Invoke, no_devices: None, monkeypatch: pytest.MonkeyPatch) -> None:
        from batchmill.engine.assembly import Assembler, open_storage

        storage = open_storage(Assembler(get_catalog().registry), "memory://doctor-liar")
        monkeypatch.setattr(type(storage), "put_if_absent", lambda self, path, data: True)
        done = invoke("doctor", "--output", "memory://doctor-liar")
        assert done.exit_code == 74
        assert "exclusive create  NO" in done.stdout

    def test_a_store_that_cannot_be_reached(
        self, invoke: Invoke, no_devices: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(*args: Any) -> Any:
            raise StorageError("s3://b cannot be reached: no route.")

        monkeypatch.setattr("batchmill.engine.assembly.open_storage", unreachable)
        done = invoke("doctor", "--output", "s3://b")
        assert done.exit_code == 74
        assert "no route" in done.stdout
