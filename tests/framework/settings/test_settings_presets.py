import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import batchmill
from batchmill import settings
from batchmill.errors import ConfigError, UnknownComponentError
from batchmill.plugin_manager import Catalog

Preset = Callable[[str, str], Path]


def test_a_preset_that_extends_a_schema(catalog: Catalog, preset: Preset) -> None:
    folder = preset("processor/four", "defaults: [times]\ntimes: 4\npath: x\n")
    request = settings.compose(["processor=four", "processor.rate=2", "dataset=numbers"], catalog, folder)
    assert request.processor.name == "times"
    assert {key: request.processor.settings[key] for key in ("times", "path", "rate")} == {
        "times": 4,
        "path": "x",
        "rate": 2.0,
    }


def test_a_preset_that_does_not_is_checked_all_the_same(catalog: Catalog, preset: Preset) -> None:
    folder = preset("processor/loose", "name: times\ntimes: 4\npath: x\n")
    loose = settings.compose(["processor=loose", "dataset=numbers"], catalog, folder).processor
    assert (loose.name, loose.settings["times"], loose.settings["rate"]) == ("times", 4, 0.5)
    preset("processor/loose", "name: times\ntimes: many\npath: x\n")
    with pytest.raises(ConfigError, match=r"processor.times=many: expected int"):
        settings.compose(["processor=loose", "dataset=numbers"], catalog, folder)
    preset("processor/loose", "name: times\ntims: 4\npath: x\n")
    with pytest.raises(ConfigError, match="processor 'times' has no setting 'tims'"):
        settings.compose(["processor=loose", "dataset=numbers"], catalog, folder)


def test_a_reducer_preset_has_a_package_of_its_own(catalog: Catalog, base: list[str], preset: Preset) -> None:
    text = "# @package reducers.top5\ndefaults: [accuracy@_here_]\nprediction: p5\n"
    folder = preset("reducers/top5", text)
    reducers = settings.compose([*base, "reducers=[accuracy,top5]"], catalog, folder).reducers
    assert [(alias, each.name, each.settings["prediction"]) for alias, each in reducers.items()] == [
        ("accuracy", "accuracy", "prediction"),
        ("top5", "accuracy", "p5"),
    ]


def test_an_experiment_sets_anything(catalog: Catalog, base: list[str], preset: Preset) -> None:
    preset("processor/four", "defaults: [times]\ntimes: 4\npath: x\n")
    folder = preset(
        "experiment/nightly",
        "# @package _global_\ndefaults:\n  - override /processor: four\n  - override /writer: none\nbatch_size: 8\n",
    )
    request = settings.compose(["+experiment=nightly", "dataset=numbers"], catalog, folder)
    assert (request.processor.settings["times"], request.writer.name, request.batch_size) == (4, "none", 8)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("processor/p", "defaults: [times]\ntims: 4\n", "In preset 'processor/p': processor 'times' has no setting"),
        (
            "processor/p",
            "defaults: [times]\ntimes: abc\n",
            "In preset 'processor/p': processor.times=abc: expected int",
        ),
        ("processor/p", "defaults: [tmes]\n", "There is no processor named 'tmes'. Did you mean 'times'?"),
        ("processor/p", "times: 3\n", "processor has no 'name'"),
        ("processor/p", "name: tmes\n", "There is no processor named 'tmes'. Did you mean 'times'?"),
        ("processor/p", "name: os:system\n", "names code to import"),
        ("processor/p", "_target_: os.system\nname: times\npath: x\n", "processor._target_ is refused"),
        ("processor/p", "defaults: [times]\npath: ${eval:1}\n", "processor.path uses the resolver 'eval'"),
        ("processor/p", "a: [1\n", "A configuration file cannot be read"),
        ("experiment/e", "# @package _global_\nbatch_sise: 8\n", "Did you mean 'batch_size'"),
        ("experiment/e", "# @package _global_\nbatch_size: x\n", "batch_size=x: expected int"),
    ],
)
def test_mistakes_in_presets(catalog: Catalog, preset: Preset, name: str, text: str, message: str) -> None:
    folder = preset(name, text)
    group, _, option = name.partition("/")
    given = [f"{'+' if group == 'experiment' else ''}{group}={option}", "dataset=numbers"]
    with pytest.raises(ConfigError) as caught:
        settings.compose(given, catalog, folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reducer_preset_without_its_package_is_explained(catalog: Catalog, base: list[str], preset: Preset) -> None:
    folder = preset("reducers/top5", "name: accuracy\nprediction: p5\n")
    with pytest.raises(ConfigError, match=r"begins with '# @package reducers.ITS_NAME'"):
        settings.compose([*base, "reducers=[top5]"], catalog, folder)


def test_presets_are_offered_beside_components(catalog: Catalog, preset: Preset) -> None:
    folder = preset("processor/four", "defaults: [times]\ntimes: 4\n")
    with pytest.raises(UnknownComponentError) as caught:
        settings.compose(["processor=for", "dataset=numbers"], catalog, folder)
    assert "Did you mean 'four'? Available: four, idle, times." in str(caught.value)


def test_an_unknown_group_option_lists_the_presets(catalog: Catalog, base: list[str], preset: Preset) -> None:
    folder = preset("experiment/nightly", "# @package _global_\nseed: 1\n")
    with pytest.raises(ConfigError, match=r"no preset 'nightl' .* Did you mean 'nightly'"):
        settings.compose([*base, "+experiment=nightl"], catalog, folder)


def test_a_preset_may_not_hide_a_component(catalog: Catalog, base: list[str], preset: Preset) -> None:
    folder = preset("writer/none", "name: parquet\n")
    assert settings.compose(base, catalog, folder).writer.name == "parquet"  # not chosen: no harm
    with pytest.raises(ConfigError, match="'writer/none' is defined in several places: --config-dir"):
        settings.compose([*base, "writer=none"], catalog, folder)


def test_a_folder_that_is_none(catalog: Catalog, base: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config-dir .*nowhere' is not a folder"):
        settings.compose(base, catalog, tmp_path / "nowhere")


class Presets:
    """A plugin that ships a preset package."""

    def __init__(self, package: str) -> None:
        self.package = package

    @batchmill.hookimpl
    def config_packages(self) -> Any:
        return [self.package]


def test_a_plugin_ships_presets(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "acme_presets_for_test"
    (package / "processor").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "processor" / "loud.yaml").write_text("defaults: [times]\ntimes: 9\npath: x\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = Catalog()
    for component in catalog.registry:
        own.registry.add(component.kind, component.name, component.factory, schema=component.schema)
    own.register(Presets("acme_presets_for_test"), "acme")
    try:
        request = settings.compose(["processor=loud", "dataset=numbers"], own)
    finally:
        sys.modules.pop("acme_presets_for_test", None)
    assert request.processor.settings["times"] == 9
    with pytest.raises(ConfigError, match="no processor named 'loud'"):
        settings.compose(["processor=loud", "dataset=numbers"], catalog)
