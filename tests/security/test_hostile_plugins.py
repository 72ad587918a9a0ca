"""Installed code that nobody asked for is not imported: plugins left out by environment, and Hydra's own plugins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Launched, Launcher

Installed = Callable[..., Launched]

RUN = [
    *("run", "processor=torch_module", "processor.builder=mlp", "processor.builder_args={sizes: [1, 2]}"),
    *("processor.inputs=[x]", "dataset=jsonl", "dataset.path=data.jsonl", "callbacks=[]"),
]
FIRST_PARTY = "processors,datasets,reducers,writers,storage,trackers,claims,launchers,callbacks"


@pytest.fixture
def installed(launch: Launcher, tmp_path: Path, flag: Path) -> Installed:
    """Call the command line where a hostile distribution is installed: everything in it creates the flag."""
    site = tmp_path / "site"
    plant = f"import pathlib\npathlib.Path({str(flag)!r}).touch()\n"
    for module in ("hostile_plugin/__init__", "hydra_plugins/hostile/__init__", "hydra_plugins/hostile_launcher"):
        (site / f"{module}.py").parent.mkdir(parents=True, exist_ok=True)
        (site / f"{module}.py").write_text(plant)
    info = site / "hostile-6.6.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 6.6\n")
    (info / "RECORD").write_text("hostile_plugin/__init__.py,,\n")
    (info / "entry_points.txt").write_text("[batchmill]\nhostile = hostile_plugin\n")
    launch.directory.mkdir(exist_ok=True)
    (launch.directory / "data.jsonl").write_text("".join(json.dumps({"x": [float(i)]}) + "\n" for i in range(4)))

    def call(*arguments: str, **environment: str) -> Launched:
        return launch("-m", "batchmill", *arguments, PYTHONPATH=str(site), **environment)

    return call


@pytest.mark.parametrize(
    "environment",
    [{"BATCHMILL_DISABLE_PLUGINS": "hostile"}, {"BATCHMILL_PLUGINS": FIRST_PARTY}],
    ids=lambda environment: next(iter(environment)),
)
def test_a_plugin_left_out_leaves_no_trace(installed: Installed, environment: dict[str, str], flag: Path) -> None:
    installed(*RUN, "--dry-run", **environment).finish(0)
    listed = installed("plugins", "--json", **environment)
    listed.finish(0)
    assert not flag.exists()
    assert "hostile" in listed.stdout and "6.6" in listed.stdout, "it is listed from its metadata alone"


def test_the_trap_works(installed: Installed, flag: Path) -> None:
    """A plugin that is not left out is imported, so the flag tells what it should."""
    installed("plugins", "processor").finish(0)
    assert flag.exists()
    flag.unlink()


def test_hydra_plugins_are_never_imported(installed: Installed, flag: Path) -> None:
    installed(*RUN, "-m", "--cfg", "job", "batch_size=1,2", BATCHMILL_PLUGINS=FIRST_PARTY).finish(0)
    assert not flag.exists()


def test_a_hydra_application_gets_its_plugins_all_the_same(launch: Launcher, installed: Installed, flag: Path) -> None:
    source = (
        "import batchmill.settings as s; from hydra.core.plugins import Plugins;"
        "given = ['processor=torch_module', 'processor.builder=mlp', 'dataset=jsonl', 'dataset.path=x'];"
        f"s.compose(given); import pathlib; assert not pathlib.Path({str(flag)!r}).exists();"
        "names = {p.__name__ for p in Plugins.instance().discover()};"
        "assert 'PresetSource' not in names and 'BatchmillSearchPath' not in names, names;"
        "s.compose(given)"
    )
    site = str(launch.directory.parent / "site")
    launch("-W", "ignore", "-c", source, PYTHONPATH=site, BATCHMILL_PLUGINS=FIRST_PARTY).finish(0)
    assert flag.exists(), "Hydra's own start imports them"
    flag.unlink()
